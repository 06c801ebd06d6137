//! What one node makes of the pulses of two others, while time is moved on by hand.

use storage::seam::Seams;

use super::*;

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);

struct World {
    life: Liveness,
    start: Instant,
    ms: u64,
}

impl World {
    fn new() -> Self {
        let ms = Duration::from_millis;
        let limits = Limits { silent: ms(550), unreachable: ms(550), mute: ms(350) };
        let start = Seams::real().clock.now();
        Self { life: Liveness::new(7, limits, start), start, ms: 0 }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.ms)
    }

    /// Time passes; `answering` nodes answer, `speaking` ones are heard. All that was new.
    fn pass(&mut self, ms: u64, answering: &[NodeId], speaking: &[NodeId]) -> News {
        let mut all = News::default();
        for _ in 0..ms / 25 {
            self.ms += 25;
            if self.ms.is_multiple_of(100) {
                for node in [B, C] {
                    self.life.asking(node, self.now());
                }
                answering.iter().for_each(|node| self.life.answered(*node, self.now()));
                speaking.iter().for_each(|node| self.life.heard(*node, true, self.now()));
            }
            let news = self.life.look(self.now());
            all.silent.extend(news.silent);
            all.answers_changed |= news.answers_changed;
        }
        all
    }
}

#[test]
fn a_node_that_is_heard_no_more_is_silent_once() {
    let mut world = World::new();
    assert_eq!(world.pass(1_000, &[B, C], &[B, C]).silent, []);
    assert_eq!(world.pass(500, &[C], &[C]).silent, []);
    assert_eq!(world.pass(500, &[C], &[C]).silent, [B]);
    assert!(world.life.is_silent(B) && !world.life.is_silent(C));
    assert_eq!(world.pass(1_000, &[C], &[C]).silent, []);
    world.pass(100, &[B, C], &[B, C]);
    assert!(!world.life.is_silent(B));
}

#[test]
fn it_is_known_when_the_next_limit_is_over() {
    let mut world = World::new();
    let due = |world: &World| world.life.due_in(world.now()).map(|due| due.as_millis());
    assert_eq!(due(&world), None, "nobody is known");
    world.pass(1_000, &[B, C], &[B, C]);
    assert_eq!(due(&world), Some(350), "a leader without an answer");
    world.pass(300, &[C], &[C]);
    assert_eq!(due(&world), Some(50));
    world.pass(50, &[C], &[C]);
    assert_eq!(due(&world), Some(200), "… and its followers");
    assert_eq!(world.pass(200, &[C], &[C]).silent, [B]);
    assert_eq!(due(&world), Some(300), "of B nothing is awaited any more");
}

#[test]
fn a_leader_falls_mute_when_no_majority_answers() {
    let mut world = World::new();
    world.pass(1_000, &[B, C], &[B, C]);
    world.pass(400, &[C], &[B, C]);
    assert!(world.life.is_answered(A, &[vec![A, B, C]]));
    let news = world.pass(400, &[], &[B, C]);
    assert!(news.answers_changed);
    assert!(!world.life.is_answered(A, &[vec![A, B, C]]));
    assert!(world.life.is_answered(A, &[vec![A]]), "a sole voter needs nobody");
    assert!(!world.life.asking(B, world.now()), "and its pulses say so");
    world.pass(100, &[B], &[]);
    assert!(world.life.is_answered(A, &[vec![A, B, C]]));
}

/// Whoever cannot lead well looks for one of these.
#[test]
fn a_node_is_well_that_is_heard_and_says_nothing_else() {
    let mut world = World::new();
    assert!(!world.life.is_well(B), "it was never heard");
    world.pass(1_000, &[B, C], &[B, C]);
    assert!(world.life.is_well(B) && world.life.is_well(C));
    world.life.set_stuck(B, true);
    world.life.set_stalled(C, true);
    assert!(!world.life.is_well(B) && !world.life.is_well(C));
    world.life.set_stuck(B, false);
    world.life.set_stalled(C, false);
    assert!(world.life.is_well(B) && world.life.is_well(C));
    world.pass(1_000, &[C], &[C]);
    assert!(!world.life.is_well(B), "it is silent");
}

/// Three of the five that vote before or after the change answer, and it can't go on.
#[test]
fn while_members_change_a_majority_of_the_old_and_one_of_the_new_is_needed() {
    const D: NodeId = NodeId(4);
    const E: NodeId = NodeId(5);
    let mut world = World::new();
    for node in [D, E] {
        world.life.asking(node, world.now());
    }
    world.pass(1_000, &[B, C], &[B, C]);
    let (old, new) = (vec![A, B, C], vec![A, D, E]);
    assert!(world.life.is_answered(A, std::slice::from_ref(&old)));
    assert!(!world.life.is_answered(A, &[old.clone(), new.clone()]));
    assert!(!world.life.is_answered(A, &[new.clone(), old.clone()]));
    world.life.answered(D, world.now());
    world.life.look(world.now());
    assert!(world.life.is_answered(A, &[old, new]));
}

#[test]
fn a_node_that_has_never_answered_is_not_unreachable_but_is_no_majority() {
    let mut world = World::new();
    world.pass(2_000, &[], &[]);
    assert!(world.life.unreachable().borrow().is_empty());
    assert!(!world.life.is_answered(A, &[vec![A, B, C]]));
}

#[test]
fn whoever_slept_forgives_the_silence() {
    let mut world = World::new();
    world.pass(1_000, &[B, C], &[B, C]);
    world.ms += 5_000;
    assert_eq!(world.life.look(world.now()), News::default());
    assert_eq!(world.pass(300, &[], &[]), News::default());
    assert_eq!(world.pass(300, &[], &[]).silent, [B, C]);
    assert_eq!(world.life.unreachable().borrow().len(), 2);
}

#[test]
fn a_node_that_takes_its_leave_is_not_waited_for_until_it_is_back() {
    let mut world = World::new();
    world.pass(1_000, &[B, C], &[B, C]);
    world.life.left(B);
    assert_eq!(world.pass(25, &[C], &[C]).silent, [B]);
    assert!(world.life.unreachable().borrow().contains(&B));
    world.pass(200, &[B, C], &[B, C]);
    assert!(world.life.unreachable().borrow().is_empty() && !world.life.is_silent(B));
}

#[test]
fn a_pulse_of_one_that_nobody_answers_is_no_sign_of_life() {
    let mut world = World::new();
    world.pass(1_000, &[B, C], &[B, C]);
    for _ in 0..6 {
        world.life.heard(B, false, world.now());
        world.pass(100, &[B, C], &[C]);
    }
    assert!(world.life.is_silent(B));
}
