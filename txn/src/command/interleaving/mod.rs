//! What leaders decide, under random interleavings of requests, applies, crashes and changes of leaders.
//!
//! The real checks, latches, [`Leadership`](crate::shard::Leadership) and apply run here over a real engine; only what
//! is between them is played: the network, Raft and the coordinators (`client.rs`), one step at a time in an order that
//! proptest chooses and shrinks. In the end everything is let run, and what clients saw must be strictly serializable
//! (`history.rs`). The model in `tests/model` explores *all* orders, of a model; this some orders, of the code.

mod client;
mod history;
mod world;

use client::{Client, Script};
use proptest::prelude::*;
use world::{KEYS, World};

/// Steps after which everything must have come to rest.
const REST_ROUNDS: usize = 400;

fn keys(max: usize) -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::btree_set(0..KEYS, 0..=max).prop_map(|keys| keys.into_iter().collect())
}

fn script() -> impl Strategy<Value = Script> {
    let writes = proptest::collection::btree_map(0..KEYS, (any::<bool>(), any::<bool>()), 0..3);
    (keys(2), any::<bool>(), writes, 0..4_u8).prop_map(|(reads, scans, writes, kind)| {
        let latest = kind == 0;
        // Reads of the latest are of one shard, and of readers only.
        let reads: Vec<usize> = match (latest, reads.first().copied()) {
            (true, Some(first)) => (0..KEYS).filter(|key| key % 2 == first % 2).collect(),
            _ => reads,
        };
        let write = |(key, (delete, absent)): (usize, (bool, bool))| client::Write {
            key,
            delete: delete && !absent,
            absent,
        };
        let writes = if latest { Vec::new() } else { writes.into_iter().map(write).collect() };
        Script { reads, scans: scans && !latest, latest, writes }
    })
}

/// One choice of the scheduler.
fn turn(world: &mut World, clients: &mut [Client], choice: u32) {
    let (what, which) = (choice % 64, (choice / 64) as usize);
    match what {
        0 => world.change_leader(which % 2, which / 2 % 3),
        1 if clients.iter().filter(|client| client.crashed).count() < 2 => {
            let at = which % clients.len();
            clients[at].crash();
        }
        2 => world.deliver_late(which),
        3..=20 => world.apply_next(which % 2),
        21..=23 => world.pass_by(which % KEYS, false),
        24..=27 => world.close(which % 2, (which / 2 % 4) as u64),
        _ => {
            let at = which % clients.len();
            step(world, clients, at, choice);
        }
    }
}

fn step(world: &mut World, clients: &mut [Client], at: usize, choice: u32) {
    if !clients[at].began {
        let acknowledged = (0..clients.len()).filter(|other| clients[*other].is_acknowledged());
        clients[at].before = acknowledged.collect();
    }
    clients[at].step(world, choice);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn clients_see_a_strictly_serializable_history(
        scripts in proptest::collection::vec(script(), 2..6),
        choices in proptest::collection::vec(any::<u32>(), 20..250),
    ) {
        let mut world = World::new();
        let mut clients: Vec<Client> =
            scripts.into_iter().enumerate().map(|(number, script)| Client::new(number, script)).collect();
        for choice in choices {
            turn(&mut world, &mut clients, choice);
        }
        let mut rounds = 0;
        while !clients.iter().all(Client::is_over) || world.anything_left() {
            rounds += 1;
            prop_assert!(rounds < REST_ROUNDS, "somebody waits forever: {clients:?}");
            for at in 0..clients.len() {
                step(&mut world, &mut clients, at, 28 + 64 * rounds as u32);
            }
            world.apply_next(0);
            world.apply_next(1);
            world.pass_by(rounds % KEYS, rounds > REST_ROUNDS / 4);
        }
        let finally = world.newest();
        prop_assert!(history::is_strictly_serializable(&clients, &finally), "{clients:?}, and in the end {finally:?}");
    }
}
