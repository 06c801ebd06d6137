//! What is done with a group because somebody has asked for it, while nothing else is done with that group.

use std::future::Future;
use std::sync::Arc;

use storage::ids::GroupId;
use tokio::sync::oneshot;

use super::execute::{self, OPERATION_LIMIT};
use super::{BUSY_TICK, Phase, Underway, phase};
use crate::Error;
use crate::placement::Operation;
use crate::rpc::Channels;
use crate::server::MetaServer;

/// [`alone`], of a step with one group like those of placement.
pub(crate) async fn carry_out(server: &Arc<MetaServer>, operation: Operation) -> Result<(), Error> {
    let (group, what, own) = (operation.group(), operation.to_string(), server.clone());
    let work = async move {
        let channels = Channels::new(&own.seams);
        execute::execute(&own, &channels, &operation).await
    };
    alone(server, group, what, work).await
}

/// Waits until a group has no operation under way, then does this, which is called `what` meanwhile. Whoever asks may go away:
/// what has begun goes on to its end, and only then the group is free again.
pub(crate) async fn alone<T: Send + 'static>(
    server: &Arc<MetaServer>,
    group: GroupId,
    what: String,
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    take(server, group, &what).await?;
    let (tell, told) = oneshot::channel();
    let own = server.clone();
    // In a task of its own, begun before anything is awaited: a request that is dropped takes its future with it, and a mark that
    // says `Running` would stay for as long as this node leads.
    server.seams.spawn("reconcile-asked", async move {
        let outcome = work.await;
        let state = phase(&own, &outcome);
        // No longer leading: the next leader has no mark of it.
        let _ =
            own.with_soft(|soft, _| soft.operations.insert(group, Underway { what, state, builds: None }));
        own.nudge.notify_one();
        // Nobody may be waiting any more.
        let _ = tell.send(outcome);
    });
    told.await.unwrap_or_else(|_| Err(Error::Unavailable("the node is stopping".to_owned())))
}

/// Marks a group as busy, as soon as it is not.
async fn take(server: &Arc<MetaServer>, group: GroupId, what: &str) -> Result<(), Error> {
    let deadline = server.seams.clock.now() + OPERATION_LIMIT;
    loop {
        let free = server.with_soft(|soft, now| {
            soft.forget_settled(now);
            let running =
                soft.operations.get(&group).is_some_and(|underway| matches!(underway.state, Phase::Running));
            if !running {
                let begun = Underway { what: what.to_owned(), state: Phase::Running, builds: None };
                soft.operations.insert(group, begun);
            }
            !running
        })?;
        if free {
            return Ok(());
        }
        if server.seams.clock.now() >= deadline {
            return Err(Error::Unavailable(format!("{group} is busy with something else; try again")));
        }
        server.seams.sleep(BUSY_TICK).await;
    }
}
