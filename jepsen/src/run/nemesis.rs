//! The hand that breaks things, by schedule, and writes down what it did.

use std::time::Duration;

use futures::future::join_all;

use super::sleep;
use crate::cluster::Cluster;
use crate::fault::schedule::Planned;
use crate::history::{Kind, Process, Recorder, Value};
use crate::links::Links;

/// Carries the schedules out, at the same time, while clients work for `time`, and leaves everything healed; says what could not be done.
pub(super) async fn run(
    cluster: &Cluster,
    links: Option<&Links>,
    plans: &[Vec<Planned>],
    time: Duration,
    recorder: &Recorder,
) -> Vec<String> {
    let done = join_all(plans.iter().map(|plan| carry_out(cluster, links, plan, time, recorder))).await;
    let mut troubles: Vec<String> = done.into_iter().flatten().collect();
    // Whatever went wrong above: in the end all nodes run.
    if !troubles.is_empty()
        && let Err(error) = cluster.each("start", &cluster.all()).await
    {
        troubles.push(format!("in the end: {error:#}"));
    }
    troubles
}

async fn carry_out(
    cluster: &Cluster,
    links: Option<&Links>,
    plan: &[Planned],
    time: Duration,
    recorder: &Recorder,
) -> Vec<String> {
    let mut troubles = Vec::new();
    for planned in plan {
        sleep(planned.at.saturating_sub(recorder.clock().elapsed())).await;
        let victims = planned.fault.victims(cluster, &planned.victims).await;
        let begun = recorder.clock().elapsed();
        // A machine that is too slow for its schedule: what is left of it would hit nobody.
        if begun >= time {
            return troubles;
        }
        note(recorder, planned, &victims, "begin");
        if let Err(error) = planned.fault.harm(cluster, links, &victims, planned.dice).await {
            troubles.push(format!("{}: {error:#}", planned.fault.name));
        }
        // As long as it was meant to, even if it began late.
        sleep((begun + planned.lasts).saturating_sub(recorder.clock().elapsed())).await;
        if let Err(error) = planned.fault.heal(cluster, links, &victims).await {
            troubles.push(format!("undoing {}: {error:#}", planned.fault.name));
        }
        note(recorder, planned, &victims, "end");
    }
    troubles
}

fn note(recorder: &Recorder, planned: &Planned, victims: &[usize], phase: &str) {
    let entries = [
        ("phase", Value::keyword(phase)),
        ("nodes", Value::vector(victims.iter().map(|node| *node as i64))),
        ("minority", Value::Bool(planned.minority)),
    ];
    let value = Value::Map(entries.map(|(name, value)| (Value::keyword(name), value)).to_vec());
    recorder.record(Process::Nemesis, Kind::Info, planned.fault.name, &value, None);
}
