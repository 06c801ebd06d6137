//! What commands do to the state, and that they may be repeated.

use proto::common::ShardDescriptor;
use proto::meta::{
    AddNode, Addresses, AllocateIds, Bootstrap, ExtendOracle, Node, Settings, UpdateNode, UpdateShards,
};
use storage::ids::GroupId;

use super::*;

fn run(state: &mut State, command: Command) -> CommandResult {
    let before = state.map_version();
    let result = apply(state, pb::Command { command: Some(command) }).expect("a known command");
    assert!(state.map_version() >= before);
    // What a replica that restarts here would load is what it has in memory.
    result
}

fn bootstrapped() -> State {
    let mut state = State::default();
    let node = Node { id: 1, instance: b"one"[..].into(), ..Default::default() };
    let shards = vec![ShardDescriptor { group: 2, epoch: 1, ..Default::default() }];
    let settings = Some(Settings { replication_factor: 3, ..Default::default() });
    let cluster_id = 7u128.to_be_bytes().to_vec().into();
    let bootstrap =
        Bootstrap { cluster_id, node: Some(node), settings, shards, next_group: 3, next_replica: 5 };
    run(&mut state, Command::Bootstrap(bootstrap));
    state
}

#[test]
fn nothing_before_bootstrap() {
    let mut state = State::default();
    assert!(
        !run(&mut state, Command::AllocateIds(AllocateIds { groups: 1, replicas: 0 })).rejected.is_empty()
    );
    assert!(state.take_dirty().is_empty());
}

#[test]
fn bootstrap_again_answers_what_stands() {
    let mut state = bootstrapped();
    let again = Bootstrap { cluster_id: 9u128.to_be_bytes().to_vec().into(), ..Default::default() };
    let result = run(&mut state, Command::Bootstrap(again));
    assert_eq!(result.cluster_id[..], 7u128.to_be_bytes());
    assert_eq!(state.cluster_id(), Some(7));
}

#[test]
fn join_twice_is_one_node() {
    let mut state = bootstrapped();
    let join = AddNode { instance: b"two"[..].into(), addresses: None };
    assert_eq!(run(&mut state, Command::AddNode(join.clone())).node, 2);
    let version = state.map_version();
    assert_eq!(run(&mut state, Command::AddNode(join.clone())).node, 2);
    assert_eq!(state.map_version(), version);
    let addresses = Some(Addresses { rpc: "elsewhere:1".into(), ..Default::default() });
    assert_eq!(run(&mut state, Command::AddNode(AddNode { addresses, ..join })).node, 2);
    assert!(state.map_version() > version);
    let other = AddNode { instance: b"three"[..].into(), addresses: None };
    assert_eq!(run(&mut state, Command::AddNode(other)).node, 3);
}

#[test]
fn node_keeps_its_place_until_it_names_another() {
    let mut state = bootstrapped();
    let update = |state: &mut State, rpc: &str, locality: Option<&str>| {
        let addresses = Some(Addresses { rpc: rpc.into(), ..Default::default() });
        let command = UpdateNode { node: 1, addresses, locality: locality.map(str::to_owned), absence: None };
        run(state, Command::UpdateNode(command));
        let node = state.nodes().values().next().expect("a node");
        (node.locality.clone(), state.map_version())
    };
    // Written before there were localities.
    assert_eq!(update(&mut state, "here:1", None).0, None);
    let (_, version) = update(&mut state, "here:1", Some("region=eu"));
    assert_eq!(update(&mut state, "here:1", Some("region=eu")), (Some("region=eu".into()), version));
    assert_eq!(update(&mut state, "there:1", None).0.as_deref(), Some("region=eu"));
    assert_eq!(update(&mut state, "there:1", Some("")).0.as_deref(), Some(""));
    // What is noted of it by others names no addresses.
    let version = state.map_version();
    run(&mut state, Command::UpdateNode(UpdateNode { node: 1, ..Default::default() }));
    let addresses = state.nodes().values().next().and_then(|node| node.addresses.clone());
    assert_eq!(addresses.map(|addresses| addresses.rpc).as_deref(), Some("there:1"));
    assert_eq!(state.map_version(), version);
}

#[test]
fn absence_is_noted_and_ends() {
    use proto::meta::Absence;
    let mut state = bootstrapped();
    let version = state.map_version();
    let mut note = |absence: Option<Absence>| {
        let command = UpdateNode { node: 1, absence, ..Default::default() };
        assert!(run(&mut state, Command::UpdateNode(command)).rejected.is_empty());
        assert_eq!(state.map_version(), version, "routing sees nothing of it");
        state.nodes().values().next().and_then(|node| node.absence)
    };
    let since = |since_ms, given_up| Some(Absence { since_ms, given_up });
    assert_eq!(note(None), None);
    assert_eq!(note(since(7, false)), since(7, false));
    assert_eq!(note(None), since(7, false), "its locality was told");
    assert_eq!(note(since(7, true)), since(7, true));
    assert_eq!(note(since(0, false)), None);
}

#[test]
fn ids_are_given_once() {
    let mut state = bootstrapped();
    let first = run(&mut state, Command::AllocateIds(AllocateIds { groups: 2, replicas: 6 }));
    let second = run(&mut state, Command::AllocateIds(AllocateIds { groups: 1, replicas: 1 }));
    assert_eq!((first.first_group, first.first_replica), (3, 5));
    assert_eq!((second.first_group, second.first_replica), (5, 11));
}

#[test]
fn ids_in_use_are_not_given_out_even_if_nobody_knows_who_gave_them() {
    let mut state = bootstrapped();
    let replica = |replica| proto::common::Replica { replica, node: 1, learner: false };
    let replicas = vec![replica(40), replica(77)];
    let shard =
        ShardDescriptor { group: 9, epoch: 3, start: b"m"[..].into(), replicas, ..Default::default() };
    run(&mut state, Command::UpdateShards(UpdateShards { shards: vec![shard], ..Default::default() }));
    let given = run(&mut state, Command::AllocateIds(AllocateIds { groups: 1, replicas: 1 }));
    assert_eq!((given.first_group, given.first_replica), (10, 78));
}

#[test]
fn older_reports_lose() {
    let mut state = bootstrapped();
    let report = |epoch, end: &'static [u8]| {
        let shard = ShardDescriptor { group: 2, epoch, end: end.into(), ..Default::default() };
        Command::UpdateShards(UpdateShards { shards: vec![shard], ..Default::default() })
    };
    run(&mut state, report(3, b"c"));
    run(&mut state, report(2, b"b"));
    let end = |state: &State| state.shards()[&GroupId(2)].descriptor.clone().map(|d| d.end);
    assert_eq!(end(&state), Some(b"c"[..].into()));
    run(&mut state, Command::ExtendOracle(ExtendOracle { end: 640 }));
    run(&mut state, Command::ExtendOracle(ExtendOracle { end: 64 }));
    assert_eq!(state.oracle_end().0, 640);
}

#[test]
fn records_rebuild_the_state() {
    let mut state = bootstrapped();
    run(&mut state, Command::AddNode(AddNode { instance: b"two"[..].into(), addresses: None }));
    let records: Vec<_> = state
        .take_dirty()
        .into_iter()
        .filter_map(|(record, value)| Some((record.key().into(), value?.into())))
        .collect();
    let loaded = State::load(records).expect("what was written loads");
    assert_eq!(format!("{loaded:?}"), format!("{state:?}"));
    assert!(state.take_dirty().is_empty());
}

#[test]
fn duty_changes_along_its_arrows_and_again() {
    use proto::meta::ChangeDuty;
    use proto::meta::NodeDuty::{self, NodeActive, NodeDecommissioned, NodeDecommissioning, NodeDraining};
    use proto::meta::change_duty::Change::{self, Decommission, Drain, Emptied, Recommission, Undrain};
    let mut state = bootstrapped();
    let mut change = |change: Change| -> (bool, NodeDuty) {
        let command = ChangeDuty { node: 1, change: change.into() };
        let taken = run(&mut state, Command::ChangeDuty(command)).rejected.is_empty();
        (taken, state.nodes().values().next().expect("a node").duty())
    };
    for (step, taken, then) in [
        (Undrain, true, NodeActive),
        (Emptied, true, NodeActive),
        (Drain, true, NodeDraining),
        (Drain, true, NodeDraining),
        (Recommission, true, NodeDraining),
        (Decommission, true, NodeDecommissioning),
        (Drain, false, NodeDecommissioning),
        (Undrain, false, NodeDecommissioning),
        (Emptied, true, NodeDecommissioned),
        (Decommission, true, NodeDecommissioned),
        (Recommission, true, NodeActive),
    ] {
        assert_eq!(change(step), (taken, then), "{step:?}");
    }
    let unknown = ChangeDuty { node: 9, change: Drain.into() };
    assert!(!run(&mut state, Command::ChangeDuty(unknown)).rejected.is_empty());
}

#[test]
fn decommissioned_store_does_not_join_again() {
    use proto::meta::ChangeDuty;
    use proto::meta::change_duty::Change;
    let mut state = bootstrapped();
    let join = AddNode { instance: b"two"[..].into(), addresses: None };
    run(&mut state, Command::AddNode(join.clone()));
    for change in [Change::Decommission, Change::Emptied] {
        run(&mut state, Command::ChangeDuty(ChangeDuty { node: 2, change: change.into() }));
    }
    assert!(run(&mut state, Command::AddNode(join.clone())).rejected.contains("recommission n2"));
    let back = ChangeDuty { node: 2, change: Change::Recommission.into() };
    run(&mut state, Command::ChangeDuty(back));
    assert_eq!(run(&mut state, Command::AddNode(join)).node, 2);
}

#[test]
fn moves_are_one_per_group_and_end_once() {
    use proto::meta::{BeginMove, EndMove};
    let mut state = bootstrapped();
    for instance in [&b"two"[..], b"three"] {
        run(&mut state, Command::AddNode(AddNode { instance: instance.into(), addresses: None }));
    }
    let begin =
        |state: &mut State, group, from, to| run(state, Command::BeginMove(BeginMove { group, from, to }));
    assert_eq!(begin(&mut state, 2, 1, 2).r#move, 1);
    assert_eq!(begin(&mut state, 2, 1, 2).r#move, 1, "asked again, it is the same");
    assert!(begin(&mut state, 2, 1, 3).rejected.contains("move-1"));
    assert!(!begin(&mut state, 7, 1, 2).rejected.is_empty(), "no such shard");
    assert!(!begin(&mut state, 1, 1, 9).rejected.is_empty(), "no such node");
    for _ in 0..2 {
        run(&mut state, Command::EndMove(EndMove { id: 1 }));
        assert!(state.cluster().moves.is_empty());
    }
    assert_eq!(begin(&mut state, 2, 1, 3).r#move, 2);
}
