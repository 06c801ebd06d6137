//! Carries out faults, and undoes them; and has operators ask for what they want.

use std::time::Duration;

use anyhow::Result;
use storage::ids::META_GROUP;

use super::host;
use super::node::SimNode;
use super::operate::{Ending, Operator, Underway};
use super::plan::{Deed, FAST_PPM, Fault, SLOW_PPM, Who, Wish};
use super::run::Simulation;
use super::world::Place;
use crate::history::Value;

/// What is to be undone.
enum Undo {
    Start(Vec<Place>),
    Resume(Place),
    Heal(Vec<(Place, Place)>),
    Quicken(Place),
    Unstall(Place),
    WallBack(Place, i64),
    /// Clocks run at their rates again, and links are whole.
    Calm(Vec<i64>, Vec<(Place, Place)>),
}

/// A fault that has begun.
struct Struck {
    number: usize,
    fault: Fault,
    victims: Vec<Place>,
    until_ns: u64,
}

impl Struck {
    /// Writes down that it begins, or has ended, as the nemesis of real runs does; but for `:minority`, by which `checker::availability` judges:
    /// what is promised for real clusters need not hold where disks stall for seconds. The number tells faults of one kind apart.
    fn note(&self, simulation: &Simulation, phase: &str) {
        let mut entries = vec![(Value::keyword("phase"), Value::keyword(phase))];
        entries.extend(self.entries(simulation));
        simulation.record.nemesis(self.fault.deed.name(), &Value::Map(entries));
    }

    /// What is said at its beginning and at its end.
    fn entries(&self, simulation: &Simulation) -> Vec<(Value, Value)> {
        let entries = [
            ("nodes", Value::vector(self.victims.iter().map(|place| *place as i64 + 1))),
            ("of", Value::Int(simulation.nodes.len() as i64)),
            ("number", Value::Int(self.number as i64)),
            ("about", Value::from(&self.fault.to_string()[..])),
        ];
        entries.into_iter().map(|(name, value)| (Value::keyword(name), value)).collect()
    }
}

/// Faults of a plan that are still to come, and those under way.
pub(super) struct Strikes {
    began: u64,
    /// The next one last.
    coming: Vec<(usize, Fault)>,
    underway: Vec<(Struck, Undo)>,
}

impl Strikes {
    /// Of faults with their numbers, in the order of their beginnings. Time counts from now on.
    pub fn new(mut coming: Vec<(usize, Fault)>) -> Self {
        coming.reverse();
        Self { began: host::now_ns(), coming, underway: Vec::new() }
    }

    /// When there is something to do next.
    pub fn next(&self) -> Option<u64> {
        let coming = self.coming.last().map(|(_, fault)| self.began + fault.at_ns);
        self.underway.iter().map(|(struck, _)| struck.until_ns).chain(coming).min()
    }

    /// Does what is due.
    pub fn strike(&mut self, simulation: &mut Simulation) -> Result<()> {
        let now = host::now_ns();
        while let Some(n) = self.underway.iter().position(|(struck, _)| struck.until_ns <= now) {
            let (struck, undo) = self.underway.remove(n);
            undo_one(simulation, undo)?;
            struck.note(simulation, "end");
        }
        while let Some((number, fault)) = self.coming.pop_if(|(_, fault)| self.began + fault.at_ns <= now) {
            simulation.world.note("fault", &[number as u64], || fault.to_string());
            let victims = whom(simulation, &fault.deed);
            let struck = Struck { number, victims, until_ns: now + fault.for_ns, fault };
            struck.note(simulation, "begin");
            if matches!(struck.fault.deed, Deed::Operate { .. }) {
                ask(simulation, &struck)?;
                continue;
            }
            let undo = strike_one(simulation, &struck.fault.deed, &struck.victims)?;
            match undo {
                Some(undo) => self.underway.push((struck, undo)),
                // It is over.
                None => struck.note(simulation, "end"),
            }
        }
        Ok(())
    }

    /// Makes everything whole.
    pub fn undo_all(&mut self, simulation: &mut Simulation) -> Result<()> {
        simulation.world.note("fault", &[], || "everything is made whole".to_owned());
        for (struck, undo) in std::mem::take(&mut self.underway) {
            undo_one(simulation, undo)?;
            struck.note(simulation, "end");
        }
        Ok(())
    }
}

/// Has an operation begin that ends by itself, at the node that was found to be asked.
fn ask(simulation: &mut Simulation, struck: &Struck) -> Result<()> {
    let Deed::Operate { wish, dice, .. } = struck.fault.deed else { return Ok(()) };
    let (record, tally) = (simulation.record.clone(), simulation.tally.clone());
    let underway = Underway::new(record, tally, wish, struck.entries(simulation));
    if let (Wish::Join, Some(through)) = (wish, struck.victims.first()) {
        return simulation.join(dice as Place, *through, underway);
    }
    let node = struck.victims.first().map(|place| &simulation.nodes[*place]);
    let meta = node.and_then(|node| node.look(|status| status.up.as_ref().map(|up| up.meta.clone())));
    let (Some(node), Some(meta), Some(seams)) = (node, meta.flatten(), node.and_then(SimNode::seams)) else {
        underway.end(&Ending::Refused("no node runs".to_owned()));
        return Ok(());
    };
    let recall = (struck.fault.for_ns > 0).then(|| Duration::from_nanos(struck.fault.for_ns));
    let operator = Operator {
        meta,
        seams,
        rows: simulation.rows(),
        replicas: simulation.plan.replicas,
        tally: simulation.tally.clone(),
        retiring: simulation.retiring.clone(),
    };
    node.spawn(async move {
        let ending = operator.carry_out(wish, dice, recall).await;
        underway.end(&ending);
    });
    Ok(())
}

/// Whom a deed hits, now that it comes to it: one node, but for crashes and halves.
fn whom(simulation: &Simulation, deed: &Deed) -> Vec<Place> {
    match deed {
        Deed::Crash { who, count: crashing, .. } => {
            let (first, count) = (find(simulation, *who), simulation.nodes.len());
            let hit = (0..*crashing).map(|n| (first + n) % count);
            hit.filter(|place| simulation.nodes[*place].lives()).collect()
        }
        Deed::Halves(first) => first.clone(),
        Deed::Operate { asked, .. } => {
            let (asked, count) = (*asked, simulation.nodes.len());
            let up = |place: &Place| simulation.nodes[*place].is_up();
            (0..count).map(|n| (asked + n) % count).find(up).into_iter().collect()
        }
        Deed::Pause(who)
        | Deed::Race(who)
        | Deed::Reset(who)
        | Deed::Isolate { who, .. }
        | Deed::Slow { who, .. }
        | Deed::Stall { who, .. }
        | Deed::WallJump { who, .. } => vec![find(simulation, *who)],
    }
}

fn strike_one(simulation: &mut Simulation, deed: &Deed, victims: &[Place]) -> Result<Option<Undo>> {
    let count = simulation.nodes.len();
    let others = |place: Place| (0..count).filter(move |other| *other != place);
    // Those that a crash was to hit may all be dead; any other deed has its victim.
    let place = victims.first().copied().unwrap_or_default();
    Ok(match deed {
        Deed::Crash { power, .. } => {
            for place in victims {
                simulation.nodes[*place].crash(*power)?;
            }
            Some(Undo::Start(victims.to_vec()))
        }
        Deed::Pause(_) => {
            simulation.nodes[place].paused = true;
            Some(Undo::Resume(place))
        }
        Deed::Isolate { outgoing, incoming, .. } => {
            let out = others(place).filter(|_| *outgoing).map(|other| (place, other));
            let into = others(place).filter(|_| *incoming).map(|other| (other, place));
            Some(cut(simulation, out.chain(into).collect()))
        }
        Deed::Race(_) => {
            let rates = simulation.nodes.iter().map(|node| node.lens.drift_ppm).collect();
            for other in 0..count {
                bend(simulation, other, if other == place { SLOW_PPM } else { FAST_PPM });
            }
            let pairs: Vec<(Place, Place)> =
                others(place).flat_map(|other| [(place, other), (other, place)]).collect();
            pairs.iter().for_each(|(from, to)| simulation.net.cut(*from, *to));
            Some(Undo::Calm(rates, pairs))
        }
        Deed::Halves(first) => {
            let crosses = |a: &Place, b: &Place| first.contains(a) != first.contains(b);
            let pairs = (0..count).flat_map(|a| (0..count).map(move |b| (a, b)));
            let pairs = pairs.filter(|(a, b)| crosses(a, b)).collect();
            Some(cut(simulation, pairs))
        }
        Deed::Slow { slow_ns, lost_permille, .. } => {
            others(place).for_each(|other| simulation.net.impair(place, other, *slow_ns, *lost_permille));
            Some(Undo::Quicken(place))
        }
        Deed::Reset(_) => {
            others(place).for_each(|other| simulation.net.reset(place, other));
            None
        }
        Deed::Stall { stall_ns, .. } => {
            simulation.nodes[place].disk.stall(*stall_ns);
            Some(Undo::Unstall(place))
        }
        // Nothing is broken: see `ask`.
        Deed::Operate { .. } => None,
        Deed::WallJump { ms, .. } => {
            simulation.nodes[place].lens.wall_ahead_ms += ms;
            Some(Undo::WallBack(place, *ms))
        }
    })
}

fn cut(simulation: &Simulation, pairs: Vec<(Place, Place)>) -> Undo {
    pairs.iter().for_each(|(from, to)| simulation.net.cut(*from, *to));
    Undo::Heal(pairs)
}

fn undo_one(simulation: &mut Simulation, undo: Undo) -> Result<()> {
    match undo {
        Undo::Start(places) => {
            for place in places {
                if !simulation.nodes[place].lives() && !simulation.nodes[place].gone {
                    simulation.start(place)?;
                }
            }
        }
        Undo::Resume(place) => {
            simulation.nodes[place].paused = false;
            simulation.world.touch(place);
        }
        Undo::Heal(pairs) => pairs.iter().for_each(|(from, to)| simulation.net.heal(*from, *to)),
        Undo::Quicken(place) => {
            (0..simulation.nodes.len()).for_each(|other| simulation.net.impair(place, other, 0, 0));
        }
        Undo::Unstall(place) => simulation.nodes[place].disk.stall(0),
        Undo::Calm(rates, pairs) => {
            rates.into_iter().enumerate().for_each(|(place, rate)| bend(simulation, place, rate));
            pairs.iter().for_each(|(from, to)| simulation.net.heal(*from, *to));
        }
        Undo::WallBack(place, ms) => simulation.nodes[place].lens.wall_ahead_ms -= ms,
    }
    Ok(())
}

/// From now on a node's clock runs at another rate.
fn bend(simulation: &mut Simulation, place: Place, drift_ppm: i64) {
    let node = &mut simulation.nodes[place];
    node.lens = node.lens.bent(host::now_ns(), drift_ppm);
    // When its next timer is due has changed.
    simulation.world.touch(place);
}

/// Whom a fault hits, now that it comes to it. If nobody leads, the first node.
fn find(simulation: &Simulation, who: Who) -> Place {
    let leads = |meta: bool| {
        simulation.nodes.iter().position(|node| {
            let groups = node.look(|status| status.up.as_ref().map(|up| up.multi.groups())).flatten();
            let groups = groups.unwrap_or_default();
            groups.iter().any(|group| (group.id() == META_GROUP) == meta && group.leads().is_some())
        })
    };
    // Groups are numbered as they are made.
    let newest = || {
        let led = |node: &SimNode| {
            let groups = node.look(|status| status.up.as_ref().map(|up| up.multi.groups())).flatten();
            let groups = groups.unwrap_or_default().into_iter().filter(|group| group.leads().is_some());
            groups.map(|group| group.id()).max()
        };
        let places = simulation.nodes.iter().enumerate();
        places.filter_map(|(place, node)| Some((led(node)?, place))).max().map(|(_, place)| place)
    };
    match who {
        Who::Node(place) => place,
        Who::RowsLeader => newest().unwrap_or(0),
        Who::MetaLeader => leads(true).unwrap_or(0),
        Who::ShardLeader => leads(false).unwrap_or(0),
    }
}
