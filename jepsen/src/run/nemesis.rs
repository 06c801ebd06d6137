//! The hand that breaks things, by schedule, and writes down what it did, and what came of it: see
//! [`checker::faults`](crate::checker::faults).

use std::time::Duration;

use anyhow::Result;
use futures::future::join_all;

use super::sleep;
use crate::checker::faults;
use crate::cluster::Cluster;
use crate::fault::schedule::Planned;
use crate::fault::{Fault, Harm, Target};
use crate::history::{Kind, Process, Recorder, Value};
use crate::links::Links;

/// What is broken.
pub(super) struct Patient<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) links: Option<&'a Links>,
    /// The workload's table: whoever hits the leader of a shard means one of its shards.
    pub(super) table: &'a str,
}

/// Writes down which faults are asked for.
pub(super) fn asked(recorder: &Recorder, faults: &[&'static Fault]) {
    if !faults.is_empty() {
        let names = Value::Vector(faults.iter().map(|fault| Value::keyword(fault.name)).collect());
        recorder.record(Process::Nemesis, Kind::Info, faults::ASKED, &names, None);
    }
}

/// Carries the schedules out, at the same time, while clients work for `time`, and leaves everything healed; says what could not be done.
pub(super) async fn run(
    patient: &Patient<'_>,
    plans: &[Vec<Planned>],
    time: Duration,
    recorder: &Recorder,
) -> Vec<String> {
    let done = join_all(plans.iter().map(|plan| carry_out(patient, plan, time, recorder))).await;
    let mut troubles: Vec<String> = done.into_iter().flatten().collect();
    // Whatever went wrong above: in the end all nodes run.
    let cluster = patient.cluster;
    if !troubles.is_empty()
        && let Err(error) = cluster.each("start", &cluster.all()).await
    {
        troubles.push(format!("in the end: {error:#}"));
    }
    troubles
}

async fn carry_out(
    patient: &Patient<'_>,
    plan: &[Planned],
    time: Duration,
    recorder: &Recorder,
) -> Vec<String> {
    let mut troubles = Vec::new();
    let (cluster, links) = (patient.cluster, patient.links);
    for planned in plan {
        sleep(planned.at.saturating_sub(recorder.clock().elapsed())).await;
        let target = planned.fault.target(cluster, patient.table, &planned.victims, planned.dice).await;
        let begun = recorder.clock().elapsed();
        // A machine that is too slow for its schedule: what is left of it would hit nobody.
        if begun >= time {
            return troubles;
        }
        note(recorder, cluster, planned, &target, None);
        let harm = planned.fault.harm(cluster, links, &target.nodes, planned.dice).await;
        if let Err(error) = &harm {
            troubles.push(format!("{}: {error:#}", planned.fault.name));
        }
        // As long as it was meant to, even if it began late.
        sleep((begun + planned.lasts).saturating_sub(recorder.clock().elapsed())).await;
        if let Err(error) = planned.fault.heal(cluster, links, &target.nodes).await {
            troubles.push(format!("undoing {}: {error:#}", planned.fault.name));
        }
        note(recorder, cluster, planned, &target, Some(&harm));
    }
    troubles
}

/// Its beginning, or its end with what came of it.
fn note(
    recorder: &Recorder,
    cluster: &Cluster,
    planned: &Planned,
    target: &Target,
    harm: Option<&Result<Harm>>,
) {
    let mut entries = vec![
        ("phase", Value::keyword(if harm.is_none() { "begin" } else { "end" })),
        ("nodes", Value::vector(target.nodes.iter().map(|node| *node as i64))),
        ("of", Value::Int(cluster.all().len() as i64)),
        ("minority", Value::Bool(planned.minority)),
    ];
    entries.extend(target.group.map(|group| ("group", Value::Int(group as i64))));
    match harm {
        None => {}
        Some(Ok(Harm::Done)) => entries.push(("outcome", Value::keyword(faults::DONE))),
        Some(Ok(Harm::Refused(why))) => {
            entries.push(("outcome", Value::keyword(faults::REFUSED)));
            entries.push(("why", Value::from(&why[..])));
        }
        Some(Ok(Harm::Wrong(name, what))) => {
            entries.push(("outcome", Value::keyword(faults::DONE)));
            entries.push(("anomaly", Value::keyword(name)));
            entries.push(("why", Value::from(&what[..])));
        }
        Some(Err(error)) => {
            entries.push(("outcome", Value::keyword(faults::FAILED)));
            entries.push(("why", Value::from(&format!("{error:#}")[..])));
        }
    }
    let value = Value::Map(entries.into_iter().map(|(name, value)| (Value::keyword(name), value)).collect());
    recorder.record(Process::Nemesis, Kind::Info, planned.fault.name, &value, None);
}
