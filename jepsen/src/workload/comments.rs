//! Comments of a thread, on many shards: blind inserts, and reads of the whole thread.

use std::sync::atomic::{AtomicI64, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;

use super::session::ints;
use super::{Answer, Invocation, Session, Workload, all_groups, final_read, sharded};
use crate::history::{FINAL_READ, Value};

/// Comments per thread: a read returns all of them.
const THREAD: i64 = 100;

#[derive(Default)]
pub struct Comments {
    next: AtomicI64,
}

impl Workload for Comments {
    fn setup(&self) -> Vec<String> {
        sharded("comments", "id int PRIMARY KEY, thread int NOT NULL")
    }

    fn next(&self, _worker: u64, rng: &mut StdRng) -> Invocation {
        if rng.random_bool(0.6) {
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            return Invocation::new("write", Value::pair(id / THREAD, id));
        }
        Invocation::new("read", Value::pair(self.next.load(Ordering::Relaxed) / THREAD, Value::Nil))
    }

    fn apply<'a>(&'a self, session: &'a Session, call: &'a Invocation) -> BoxFuture<'a, Answer> {
        async move {
            if call.f == FINAL_READ {
                let rows = session.read("SELECT thread, id FROM comments ORDER BY id").await?;
                let threads = all_groups(call, &rows);
                let pairs = threads.into_iter().map(|(thread, ids)| Value::pair(thread, Value::vector(ids)));
                return Ok(Value::Vector(pairs.collect()));
            }
            let (thread, id) = call.value.as_pair().unwrap_or((&Value::Nil, &Value::Nil));
            if call.f == "write" {
                session.write(&format!("INSERT INTO comments VALUES ({id}, {thread})")).await?;
                return Ok(call.value.clone());
            }
            let rows =
                session.read(&format!("SELECT id FROM comments WHERE thread = {thread} ORDER BY id")).await?;
            Ok(Value::pair(thread.clone(), Value::vector(ints(&rows))))
        }
        .boxed()
    }
    fn last(&self) -> Vec<Invocation> {
        final_read(self.next.load(Ordering::Relaxed) / THREAD + 1)
    }
}
