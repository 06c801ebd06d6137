//! Inserts that must all be there in the end.

use std::sync::atomic::{AtomicI64, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;

use super::session::ints;
use super::{Answer, Invocation, Session, Workload, sharded};
use crate::history::Value;

#[derive(Default)]
pub struct Set {
    next: AtomicI64,
}

impl Workload for Set {
    fn setup(&self) -> Vec<String> {
        sharded("elements", "e int PRIMARY KEY")
    }

    fn next(&self, _worker: u64, rng: &mut StdRng) -> Invocation {
        // A read returns everything, so that they are rare.
        match rng.random_range(0..20) {
            0 => Invocation::new("read", Value::Nil),
            _ => Invocation::new("add", self.next.fetch_add(1, Ordering::Relaxed)),
        }
    }

    fn apply<'a>(&'a self, session: &'a Session, call: &'a Invocation) -> BoxFuture<'a, Answer> {
        async move {
            if call.f == "add" {
                session.write(&format!("INSERT INTO elements VALUES ({})", call.value)).await?;
                return Ok(call.value.clone());
            }
            Ok(Value::vector(ints(&session.read("SELECT e FROM elements ORDER BY e").await?)))
        }
        .boxed()
    }

    fn last(&self) -> Vec<Invocation> {
        vec![Invocation::new("final-read", Value::Nil)]
    }
}
