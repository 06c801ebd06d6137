//! A small explicit-state checker: breadth first, so that the trace to a violation is a shortest one.
//!
//! It also finds what no trace of a finite length shows: states from which nothing ever comes to rest.
//!
//! (The `stateright` crate was looked at. It brings a web server along that no feature turns off, turns on features of
//! `ahash` under DataFusion, keeps the whole path with every state of the frontier, and its "eventually" can miss a
//! violation where two ways join. What is needed here is little.)

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::mem::{Discriminant, discriminant};

/// What is checked.
pub trait Model {
    /// Everything there is at one moment.
    type State: Clone + Eq + Hash + Debug;
    /// A step.
    type Action: Copy + Debug;

    /// Where it begins.
    fn initial(&self) -> Self::State;
    /// The steps that can be taken; some may turn out not to be possible.
    fn actions(&self, state: &Self::State, actions: &mut Vec<Self::Action>);
    /// Takes a step, if it is possible.
    fn step(&self, state: &Self::State, action: Self::Action) -> Option<Self::State>;
    /// What is wrong with the step.
    fn violation(&self, before: &Self::State, after: &Self::State) -> Option<String>;
    /// Nothing is under way, and nobody waits.
    fn at_rest(&self, state: &Self::State) -> bool;
}

/// What the checker found.
#[derive(Debug)]
pub struct Report {
    /// Different states.
    pub states: usize,
    /// Steps between them.
    pub steps: usize,
    /// The length of the longest of the shortest ways.
    pub depth: usize,
    /// States at rest.
    pub at_rest: usize,
    /// Kinds of steps that were taken.
    pub kinds: HashSet<String>,
    /// What is wrong, and the steps that lead there.
    pub violation: Option<(String, Vec<String>)>,
}

/// How a state was reached first.
struct Origin<A> {
    parent: u32,
    depth: u16,
    action: Option<A>,
}

/// Explores all states, up to `states_max`: more is a mistake in the configuration.
pub fn check<M: Model>(model: &M, states_max: usize) -> Report {
    let mut search = Search::new(model);
    let mut next = 0;
    while let Some(state) = search.frontier.pop_front() {
        let found = search.expand(next, &state);
        next += 1;
        if let Some((what, action)) = found {
            let mut trace = search.trace(next - 1);
            trace.push(format!("{action:?}"));
            return search.report(Some((what, trace)));
        }
        assert!(search.origins.len() <= states_max, "more than {states_max} states: make it smaller");
    }
    let stuck = search.stuck();
    let violation =
        stuck.map(|state| ("nothing ever comes to rest from here".to_owned(), search.trace(state)));
    search.report(violation)
}

struct Search<'m, M: Model> {
    model: &'m M,
    /// States are known by a hash of 64 bits: of ten million, two collide with a probability of one in 100,000.
    known: HashMap<u64, u32, BuildHasherDefault<Identity>>,
    origins: Vec<Origin<M::Action>>,
    /// Of state `n`: `successors[offsets[n]..offsets[n + 1]]`.
    offsets: Vec<u32>,
    successors: Vec<u32>,
    resting: Vec<bool>,
    frontier: std::collections::VecDeque<M::State>,
    actions: Vec<M::Action>,
    kinds: HashMap<Discriminant<M::Action>, String>,
}

impl<'m, M: Model> Search<'m, M> {
    fn new(model: &'m M) -> Self {
        let initial = model.initial();
        let mut search = Self {
            model,
            known: HashMap::default(),
            origins: vec![Origin { parent: 0, depth: 0, action: None }],
            offsets: vec![0],
            successors: Vec::new(),
            resting: vec![model.at_rest(&initial)],
            frontier: std::collections::VecDeque::new(),
            actions: Vec::new(),
            kinds: HashMap::new(),
        };
        search.known.insert(fingerprint(&initial), 0);
        search.frontier.push_back(initial);
        search
    }

    fn expand(&mut self, index: usize, state: &M::State) -> Option<(String, M::Action)> {
        let mut actions = std::mem::take(&mut self.actions);
        actions.clear();
        self.model.actions(state, &mut actions);
        for action in &actions {
            let Some(after) = self.model.step(state, *action) else {
                continue;
            };
            self.kinds.entry(discriminant(action)).or_insert_with(|| kind(action));
            if let Some(what) = self.model.violation(state, &after) {
                return Some((what, *action));
            }
            let fresh = self.origins.len() as u32;
            let number = *self.known.entry(fingerprint(&after)).or_insert(fresh);
            if number == fresh {
                let depth = self.origins[index].depth + 1;
                self.origins.push(Origin { parent: index as u32, depth, action: Some(*action) });
                self.resting.push(self.model.at_rest(&after));
                self.frontier.push_back(after);
            }
            self.successors.push(number);
        }
        self.offsets.push(self.successors.len() as u32);
        self.actions = actions;
        None
    }

    /// A state from which no state at rest can be reached.
    fn stuck(&self) -> Option<usize> {
        let mut can_rest = self.resting.clone();
        loop {
            let mut changed = false;
            // Backwards: most steps lead to states that were found later.
            for state in (0..can_rest.len()).rev() {
                let range = self.offsets[state] as usize..self.offsets[state + 1] as usize;
                if !can_rest[state] && self.successors[range].iter().any(|next| can_rest[*next as usize]) {
                    can_rest[state] = true;
                    changed = true;
                }
            }
            if !changed {
                return can_rest.iter().position(|can| !can);
            }
        }
    }

    fn trace(&self, mut state: usize) -> Vec<String> {
        let mut trace = Vec::new();
        while let Some(action) = self.origins[state].action {
            trace.push(format!("{action:?}"));
            state = self.origins[state].parent as usize;
        }
        trace.reverse();
        trace
    }

    fn report(&self, violation: Option<(String, Vec<String>)>) -> Report {
        Report {
            states: self.origins.len(),
            steps: self.successors.len(),
            depth: self.origins.last().map_or(0, |origin| origin.depth.into()),
            at_rest: self.resting.iter().filter(|resting| **resting).count(),
            kinds: self.kinds.values().cloned().collect(),
            violation,
        }
    }
}

/// The name of an action, without what it is about.
fn kind(action: &impl Debug) -> String {
    let text = format!("{action:?}");
    text.split('(').next().unwrap_or_default().to_owned()
}

fn fingerprint<T: Hash>(state: &T) -> u64 {
    let mut hasher = Mixer(0x9e37_79b9_7f4a_7c15);
    state.hash(&mut hasher);
    hasher.finish()
}

/// Multiplies and folds: much quicker than SipHash on small structs, and nobody attacks it.
struct Mixer(u64);

impl Mixer {
    fn mix(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * 0xa076_1d64_78bd_642f;
        self.0 = (product as u64) ^ ((product >> 64) as u64) ^ word.rotate_left(23);
    }
}

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word) ^ (chunk.len() as u64) << 56);
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.mix(u64::from(n) + 1);
    }

    fn write_isize(&mut self, n: isize) {
        self.mix(n as u64 + 1);
    }

    fn write_usize(&mut self, n: usize) {
        self.mix(n as u64 + 1);
    }

    fn finish(&self) -> u64 {
        let product = u128::from(self.0) * 0xe703_7ed1_a0b4_28db;
        (product as u64) ^ ((product >> 64) as u64)
    }
}

/// The keys are hashes.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only 64-bit hashes are looked up");
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
