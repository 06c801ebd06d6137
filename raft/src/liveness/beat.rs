//! The two tasks: one sends pulses, one looks who has missed some.

use std::sync::{Arc, Weak};
use std::time::Duration;

use proto::raft as wire;
use storage::ids::{GroupId, NodeId, ReplicaId};
use storage::seam::Seams;

use super::LOOK_EVERY;
use super::succession::succeed;
use crate::group::{Group, within};
use crate::multi::MultiRaft;
use crate::transport::Hub;
use crate::transport::link::LinkError;

/// An answer that comes later says nothing about now.
const ANSWER_LIMIT: Duration = Duration::from_millis(500);
/// How long a node that stops waits for others to hear it.
const FAREWELL_LIMIT: Duration = Duration::from_millis(100);
const PULSE_BYTES: usize = 32;

/// Tells all others that this node stops. Its replicas must have stopped: nobody waits for it any more.
pub(crate) async fn farewell(hub: &Hub) {
    hub.liveness.set_gone();
    let answers = hub.all_links().into_iter().map(|link| {
        let pulse = wire::Pulse {
            incarnation: hub.liveness.incarnation,
            answered: false,
            leaving: true,
            stalled: false,
            stuck: false,
            behind: false,
        };
        let of_node = (GroupId(0), ReplicaId(0), ReplicaId(0));
        let body = wire::request::Body::Pulse(pulse);
        link.request(of_node.0, of_node.1, of_node.2, PULSE_BYTES, ANSWER_LIMIT, body)
    });
    let said = async {
        // Whoever doesn't hear it notices.
        let _ = futures::future::join_all(answers).await;
    };
    within(&hub.seams, FAREWELL_LIMIT, said).await;
}

/// Sends pulses over all links until the node stops.
pub(crate) async fn beat(hub: Arc<Hub>) {
    let mut stopping = hub.stopping();
    while !*stopping.borrow() && !hub.liveness.is_gone() {
        for link in hub.all_links() {
            let now = hub.seams.clock.now();
            let node = link.node();
            let pulse = wire::Pulse {
                incarnation: hub.liveness.incarnation,
                answered: hub.liveness.asking(node, now),
                leaving: false,
                stalled: hub.liveness.is_stalled(hub.me),
                stuck: hub.liveness.is_stuck(hub.me),
                behind: hub.liveness.is_behind(hub.me),
            };
            let body = wire::request::Body::Pulse(pulse);
            let of_node = (GroupId(0), ReplicaId(0), ReplicaId(0));
            let answer = link.request(of_node.0, of_node.1, of_node.2, PULSE_BYTES, ANSWER_LIMIT, body);
            let hub = hub.clone();
            hub.seams.clone().spawn("raft-pulse", async move {
                // One that doesn't know pulses (an older version) lives all the same.
                if matches!(answer.await, Ok(_) | Err(LinkError::Refused(_))) {
                    hub.liveness.answered(node, now);
                }
            });
        }
        tokio::select! {
            () = hub.seams.beat(hub.options.pulse()) => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
    }
}

/// Looks who has fallen silent, until the node stops.
pub(crate) async fn watch(multi: Weak<MultiRaft>, hub: Arc<Hub>, seams: Seams) {
    loop {
        let beat = seams.beat.near(LOOK_EVERY);
        let due = hub.liveness.due_in(seams.clock.now());
        tokio::select! {
            () = seams.sleep(due.map_or(beat, |due| due.min(beat))) => {}
            () = hub.liveness.parted() => {}
        }
        let Some(multi) = multi.upgrade() else { return };
        if multi.is_stopping() {
            return;
        }
        let news = hub.liveness.look(seams.clock.now());
        if news.answers_changed || !hub.liveness.all_speak() {
            // Nothing at rest leads.
            for group in multi.awake() {
                hush(&hub, &group);
            }
            hub.liveness.retain_mute(|group| multi.group(group).is_some_and(|group| !group.rests()));
        }
        for node in news.silent {
            tracing::warn!(%node, "it is not heard any more");
            metrics::counter!("flotilla_nodes_silent_total").increment(1);
            seams.spawn("raft-succession", succeed(Arc::downgrade(&multi), hub.clone(), node));
        }
    }
}

/// A leader that no majority answers is silent, so that the others elect another.
fn hush(hub: &Hub, group: &Group) {
    let leads = group.leads().is_some();
    let answered = !leads || hub.liveness.is_answered(hub.me, &group.quorums());
    if !hub.liveness.set_mute(group.id(), !answered) {
        return;
    }
    let group = group.id();
    match answered {
        false => {
            tracing::warn!(%group, "no majority answers: this leader is silent, so that the others elect")
        }
        true => tracing::info!(%group, "this replica speaks again"),
    }
}

/// A pulse of another node.
pub(crate) fn answer(hub: &Hub, from: NodeId, pulse: wire::Pulse) -> wire::Pulsed {
    if pulse.leaving {
        hub.liveness.left(from);
    }
    hub.liveness.set_stalled(from, pulse.stalled);
    hub.liveness.set_stuck(from, pulse.stuck);
    hub.liveness.set_behind(from, pulse.behind);
    hub.liveness.heard(from, pulse.answered, hub.seams.clock.now());
    wire::Pulsed { incarnation: hub.liveness.incarnation }
}
