//! Golden scripts: `testscripts/placement/`.
//!
//! ```text
//! policy grow transfer                 what can be carried out (`all`, the default)
//!        transfers=N moves=N per_node=N
//! cluster nodes=5 rf=3 dead=n3         nodes n1 … n5 with the same rule for all groups
//! node n4 at=…|unknown down=SECONDS duty=leaving|draining behind=BOOL capacity=… used=…
//! rule 1 replicas=5 within=… outside=… at_least="2 region=eu" leader=…
//! group g1 leader=n1 r1@n1 r2@n2/lags r3@n3/learner/replaced table=… bytes=… reads=… writes=… cpu_ms=…
//! shards 100 first=g10 on="n1 n2 n3" … so many groups, each on three of these nodes in turn
//! plan [why]                           the next steps
//! settle [quiet]                       plans and carries out until nothing is left to do
//! nodes                                what each node has
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::time::Duration;

use goldenscript::{ArgumentConsumer, Command, Context, Runner};
use storage::ids::{GroupId, NodeId, ReplicaId};

use super::*;

#[derive(Default)]
struct Script {
    cluster: Description,
    policy: Policy,
    tables: Vec<String>,
}

type Outcome<T> = Result<T, Box<dyn Error>>;

fn number(text: &str) -> Outcome<u64> {
    Ok(text.trim_start_matches(['n', 'g', 'r']).parse()?)
}

/// `256M`: mebibytes; `2G`: gibibytes.
fn size(text: &str) -> Outcome<u64> {
    let (digits, shift) = match text.strip_suffix('G') {
        Some(digits) => (digits, 30),
        None => text.strip_suffix('M').map_or((text, 0), |digits| (digits, 20)),
    };
    Ok(digits.parse::<u64>()? << shift)
}

/// `r7@n2` is a voter, `r7@n2/learner` a learner, `r7@n2/lags` lags behind.
fn replica(text: &str) -> Outcome<Replica> {
    let mut parts = text.split('/');
    let (id, node) = parts.next().and_then(|place| place.split_once('@')).ok_or("replica@node")?;
    let mut replica = Replica::voter(ReplicaId(number(id)?), NodeId(number(node)?));
    for part in parts {
        match part {
            "learner" => replica.voter = false,
            "lags" => replica.caught_up = false,
            "replaced" => replica.replaced = true,
            "lost" => replica.lost = true,
            _ => return Err(format!("unknown {part}").into()),
        }
    }
    Ok(replica)
}

impl Script {
    fn set_policy(&mut self, args: &mut ArgumentConsumer<'_>) -> Outcome<()> {
        let mut can = Capabilities::NONE;
        while let Some(what) = args.next_pos() {
            match what {
                "all" => can = Capabilities::ALL,
                "grow" => can.grow = true,
                "replace" => (can.replace, can.balance) = (true, true),
                "repair" => can.replace = true,
                "transfer" => can.transfer = true,
                "split" => can.split = true,
                "merge" => can.merge = true,
                _ => return Err(format!("unknown {what}").into()),
            }
        }
        if can != Capabilities::NONE {
            self.policy.can = can;
        }
        let bounds = [
            ("transfers", &mut self.policy.transfers_max),
            ("moves", &mut self.policy.moves_max),
            ("per_node", &mut self.policy.moves_per_node_max),
        ];
        for (key, bound) in bounds {
            if let Some(value) = args.take_key(key) {
                *bound = value.parse()?;
            }
        }
        Ok(())
    }

    fn set_cluster(&mut self, args: &mut ArgumentConsumer<'_>) -> Outcome<()> {
        let replicas = args.take_key("rf").map_or(Ok(3), str::parse)?;
        self.cluster.rules = vec![Rule { replicas, ..Rule::default() }];
        self.cluster.incomplete = args.take_key("incomplete").map_or(Ok(false), str::parse)?;
        let dead = args.take_key("dead").map(number).transpose()?;
        for id in 1..=args.take_key("nodes").map_or(Ok(3), str::parse)? {
            let node = self.node(NodeId(id));
            let down = Health::Down(Duration::ZERO);
            node.health = if dead == Some(id) { down } else { Health::Live };
        }
        Ok(())
    }

    fn node(&mut self, id: NodeId) -> &mut Node {
        let nodes = &mut self.cluster.nodes;
        let place = nodes.iter().position(|n| n.id == id).unwrap_or_else(|| {
            nodes.push(Node::live(id));
            nodes.len() - 1
        });
        &mut nodes[place]
    }

    fn set_node(&mut self, args: &mut ArgumentConsumer<'_>) -> Outcome<()> {
        let id = NodeId(number(args.next_pos().ok_or("a node")?)?);
        let node = self.node(id);
        if let Some(place) = args.take_key("at") {
            node.locality = if place == "unknown" { None } else { Some(place.parse()?) };
        }
        if let Some(seconds) = args.take_key("down") {
            node.health = Health::Down(Duration::from_secs(seconds.parse()?));
        }
        if args.take_key("live").is_some() {
            node.health = Health::Live;
        }
        node.duty = match args.take_key("duty") {
            None => node.duty,
            Some("serving") => Duty::Serving,
            Some("draining") => Duty::Draining,
            Some("leaving") => Duty::Leaving,
            Some(other) => return Err(format!("unknown duty {other}").into()),
        };
        node.behind = args.take_key("behind").map_or(Ok(node.behind), str::parse)?;
        node.capacity_bytes = args.take_key("capacity").map_or(Ok(node.capacity_bytes), size)?;
        node.used_bytes = args.take_key("used").map_or(Ok(node.used_bytes), size)?;
        if args.take_key("removed").is_some() {
            self.cluster.nodes.retain(|n| n.id != id);
        }
        Ok(())
    }

    fn set_rule(&mut self, args: &mut ArgumentConsumer<'_>) -> Outcome<()> {
        let place: usize = args.next_pos().ok_or("a number")?.parse()?;
        let mut rule = Rule {
            replicas: args.take_key("replicas").map_or(Ok(3), str::parse)?,
            leader_in: args.take_key("leader").map_or(Ok(Locality::default()), str::parse)?,
            constraints: Vec::new(),
        };
        if let Some(place) = args.take_key("within") {
            rule.constraints.push(Constraint::Within(place.parse()?));
        }
        if let Some(place) = args.take_key("outside") {
            rule.constraints.push(Constraint::Outside(place.parse()?));
        }
        if let Some(text) = args.take_key("at_least") {
            for part in text.split(';') {
                let (count, place) = part.trim().split_once(' ').ok_or("count locality")?;
                rule.constraints.push(Constraint::AtLeast(count.parse()?, place.parse()?));
            }
        }
        self.cluster.rules.resize(self.cluster.rules.len().max(place + 1), Rule::default());
        self.cluster.rules[place] = rule;
        Ok(())
    }

    /// What `group` and `shards` have in common.
    fn group(&mut self, id: GroupId, args: &mut ArgumentConsumer<'_>) -> Outcome<Group> {
        let mut group = Group::new(id);
        if let Some(table) = args.take_key("table") {
            let known = self.tables.iter().position(|t| t == table);
            let place = known.unwrap_or_else(|| {
                self.tables.push(table.to_owned());
                self.tables.len() - 1
            });
            group.family = Some(Family(place as u64));
        }
        let flag = |value: Option<&str>| value.map_or(Ok(false), str::parse::<bool>);
        group.busy = flag(args.take_key("busy"))?;
        group.changes_hands = flag(args.take_key("changes_hands"))?;
        group.joint = flag(args.take_key("joint"))?;
        group.restless = flag(args.take_key("restless"))?;
        group.guessed = flag(args.take_key("guessed"))?;
        group.pinned = flag(args.take_key("pinned"))?;
        group.bytes = args.take_key("bytes").map(size).transpose()?;
        group.load.reads = args.take_key("reads").map_or(Ok(0), str::parse)?;
        group.load.writes = args.take_key("writes").map_or(Ok(0), str::parse)?;
        group.load.cpu_ms = args.take_key("cpu_ms").map_or(Ok(0), str::parse)?;
        group.rule = args.take_key("rule").map_or(Ok(0), str::parse)?;
        Ok(group)
    }

    fn put(&mut self, group: Group) {
        let groups = &mut self.cluster.groups;
        match groups.binary_search_by_key(&group.id, |g| g.id) {
            Ok(place) => groups[place] = group,
            Err(place) => groups.insert(place, group),
        }
    }

    fn set_group(&mut self, args: &mut ArgumentConsumer<'_>) -> Outcome<()> {
        let id = GroupId(number(args.next_pos().ok_or("a group")?)?);
        let mut group = self.group(id, args)?;
        group.leader = args.take_key("leader").map(number).transpose()?.map(NodeId);
        while let Some(text) = args.next_pos() {
            group.replicas.push(replica(text)?);
        }
        self.put(group);
        Ok(())
    }

    fn set_shards(&mut self, args: &mut ArgumentConsumer<'_>) -> Outcome<()> {
        let count: usize = args.next_pos().ok_or("how many")?.parse()?;
        let first = number(args.take_key("first").ok_or("first=")?)?;
        let nodes: Vec<u64> =
            args.take_key("on").ok_or("on=")?.split(' ').map(number).collect::<Outcome<_>>()?;
        let replicas: usize = args.take_key("replicas").map_or(Ok(3), str::parse)?;
        let like = self.group(GroupId(0), args)?;
        for turn in 0..count {
            let mut group = like.clone();
            group.id = GroupId(first + turn as u64);
            for replica in 0..replicas.min(nodes.len()) {
                let node = nodes[(turn + replica) % nodes.len()];
                group.replicas.push(Replica::voter(ReplicaId(group.id.0 * 10 + node), NodeId(node)));
            }
            group.leader = Some(group.replicas[0].node);
            self.put(group);
        }
        Ok(())
    }

    /// Pretends that an operation has been carried out, with replica ids made of group and node.
    fn execute(&mut self, operation: &Operation) {
        let groups = &mut self.cluster.groups;
        let next = GroupId(groups.iter().map(|g| g.id.0).max().unwrap_or(0) + 1);
        let id = operation.group();
        let Some(place) = groups.iter().position(|g| g.id == id) else { return };
        let group = &mut groups[place];
        match operation {
            Operation::AddLearner { node, replaces, .. } => {
                let id = ReplicaId(id.0 * 10 + node.0);
                group.replicas.push(Replica { voter: false, ..Replica::voter(id, *node) });
                for old in group.replicas.iter_mut().filter(|r| Some(r.id) == *replaces) {
                    old.replaced = true;
                }
            }
            Operation::ChangeVoters { voters, .. } => {
                group.joint = false;
                group.replicas.retain(|r| !r.voter || voters.contains(&r.id));
                for replica in &mut group.replicas {
                    replica.voter = voters.contains(&replica.id);
                }
            }
            Operation::RemoveReplica { replica, .. } => group.replicas.retain(|r| r.id != *replica),
            Operation::TransferLeader { node, .. } => group.leader = Some(*node),
            Operation::Split { .. } => {
                group.bytes = group.bytes.map(|b| b / 2);
                let Load { reads, writes, cpu_ms } = group.load;
                group.load = Load { reads: reads / 2, writes: writes / 2, cpu_ms: cpu_ms / 2 };
                let right = Group { id: next, ..group.clone() };
                groups.insert(place + 1, right);
            }
            Operation::Merge { .. } => {
                let right = groups.remove(place + 1);
                let group = &mut groups[place];
                group.bytes = group.bytes.zip(right.bytes).map(|(a, b)| a + b);
            }
        }
    }

    fn plan(&mut self) -> Plan {
        let plan = plan(&self.cluster, &self.policy);
        assert_eq!(
            plan,
            super::plan(&self.cluster, &self.policy),
            "the same description gives the same plan"
        );
        self.cluster.salt += 1;
        plan
    }

    fn settle(&mut self, quiet: bool) -> Outcome<String> {
        let mut output = String::new();
        let (mut learners, mut transfers, mut others, mut rounds) = (0, 0, 0, 0);
        loop {
            let plan = self.plan();
            if plan.steps.is_empty() {
                break;
            }
            rounds += 1;
            if rounds > 300 {
                return Err(format!("does not settle: {}", plan.steps[0]).into());
            }
            for operation in plan.operations() {
                match operation {
                    Operation::AddLearner { .. } => learners += 1,
                    Operation::TransferLeader { .. } => transfers += 1,
                    _ => others += 1,
                }
                if !quiet {
                    writeln!(output, "{rounds}. {operation}")?;
                }
                self.execute(operation);
            }
        }
        if quiet {
            writeln!(output, "{rounds} rounds: {learners} learners, {transfers} transfers, {others} others")?;
        }
        Ok(output)
    }

    /// What each node has.
    fn describe_nodes(&self) -> Outcome<String> {
        let mut output = String::new();
        for node in &self.cluster.nodes {
            let held = || self.cluster.groups.iter().filter(|g| g.on(node.id).is_some());
            let led = held().filter(|g| g.leader == Some(node.id));
            let mib = held().map(|g| g.bytes.unwrap_or(0)).sum::<u64>() >> 20;
            let requests: u64 = led.clone().map(|g| g.load.led()).sum();
            let (replicas, leaders) = (held().count(), led.count());
            write!(output, "{}: {replicas} replicas, {leaders} leaders", node.id)?;
            if mib > 0 {
                write!(output, ", {mib} MiB")?;
            }
            if requests > 0 {
                write!(output, ", {requests} requests/s led")?;
            }
            writeln!(output)?;
        }
        Ok(output)
    }
}

impl Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Outcome<String> {
        let mut args = command.consume_args();
        let mut output = String::new();
        match command.name.as_str() {
            "policy" => self.set_policy(&mut args)?,
            "cluster" => self.set_cluster(&mut args)?,
            "node" => self.set_node(&mut args)?,
            "rule" => self.set_rule(&mut args)?,
            "group" => self.set_group(&mut args)?,
            "shards" => self.set_shards(&mut args)?,
            "plan" => {
                let why = args.next_pos() == Some("why");
                let plan = self.plan();
                for step in &plan.steps {
                    if why {
                        writeln!(output, "{step}")?;
                    } else {
                        writeln!(output, "{}", step.operation)?;
                    }
                }
                if plan.stalled.leaderless > 0 {
                    writeln!(output, "leaderless: {}", plan.stalled.leaderless)?;
                }
                if plan.stalled.waiting > 0 {
                    writeln!(output, "waiting: {}", plan.stalled.waiting)?;
                }
            }
            // Plans and carries out until there is nothing left to do.
            "settle" => {
                let quiet = args.next_pos() == Some("quiet");
                output = self.settle(quiet)?;
            }
            "nodes" => output = self.describe_nodes()?,
            // Where the group is.
            "where" => {
                let id = GroupId(number(args.next_pos().ok_or("a group")?)?);
                for group in self.cluster.groups.iter().filter(|g| g.id == id) {
                    let nodes: Vec<String> = group.replicas.iter().map(|r| r.node.to_string()).collect();
                    writeln!(output, "{}", nodes.join(" "))?;
                }
            }
            "leaders" => {
                let mut count: BTreeMap<NodeId, usize> = BTreeMap::new();
                for leader in self.cluster.groups.iter().filter_map(|g| g.leader) {
                    *count.entry(leader).or_default() += 1;
                }
                writeln!(output, "{count:?}")?;
            }
            "forget" => self.cluster.groups.clear(),
            name => return Err(format!("unknown command {name}").into()),
        }
        args.reject_next()?;
        Ok(output)
    }
}

macro_rules! scripts {
    ($($name:ident),* $(,)?) => {$(
        #[test]
        fn $name() {
            let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/testscripts/placement/");
            let path = format!("{directory}{}", stringify!($name));
            goldenscript::run(&mut Script::default(), &path).expect(&path);
        }
    )*};
}

scripts! {
    added_nodes_take_their_share,
    balance_keeps_failure_domains,
    bounds_hold_across_plans,
    busy_group_is_left_alone,
    bytes_are_balanced,
    capabilities_limit_what_is_planned,
    constraint_keeps_a_table_in_its_region,
    dead_and_leaving_node_is_not_awaited,
    dead_node_is_awaited_then_repaired,
    dead_node_keeps_its_replicas,
    decommission_empties_a_node,
    drain_moves_leaders_only,
    first_nodes_join_grows_groups,
    full_disk_gives_and_does_not_take,
    group_without_majority_is_left_alone,
    growth_waits_for_both_learners,
    hot_leaders_are_spread,
    incomplete_reports_move_no_leader,
    interrupted_joint_change_is_ended,
    large_and_hot_shards_are_split,
    leader_follows_its_preference,
    leader_on_leaving_node_hands_over_first,
    leaders_come_to_rest_while_load_wavers,
    leaders_of_split_hot_shard_are_spread,
    leaders_wait_for_leaders_alone,
    learner_that_lost_its_reason_is_removed,
    leaving_without_room_waits,
    load_is_balanced,
    lost_learner_is_made_anew,
    most_endangered_group_is_repaired_first,
    node_that_catches_up_is_handed_no_leader,
    moved_replica_goes_through_learner_and_joint_change,
    one_hot_shard_is_not_passed_around,
    place_fills_node_by_node,
    place_without_a_node_takes_nothing_away,
    racks_regions_and_five_replicas,
    replicas_in_one_zone_are_spread,
    replication_factor_is_changed,
    shards_with_expensive_requests_are_split,
    small_cold_neighbours_are_merged,
    surplus_voter_is_kept_while_another_is_away,
    table_of_eight_shards_uses_all_nodes,
    three_nodes_one_dead_keeps_three_voters,
    those_without_room_do_not_keep_others_waiting,
    uneven_disks_get_uneven_shares,
    unknown_localities_take_nothing_away,
    unknown_nodes_and_missing_rules,
    what_a_dropped_table_has_left_is_absorbed,
    within_the_band_nothing_moves,
    zones_get_one_replica_each,
}
