//! The graph of dependencies, and its cycles.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, EdgeIndex, NodeIndex};
use petgraph::visit::{EdgeFiltered, EdgeRef};

use super::Txns;
use crate::checker::Verdict;
use crate::history::{Process, Value};

/// Edges of a strongly connected component from which a cycle is sought.
const STARTS_MAX: usize = 500;
/// Components that are described per class.
const COMPONENTS_MAX: usize = 10;

/// How one transaction comes before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// It wrote the version before.
    Ww,
    /// It wrote what the other read.
    Wr,
    /// It read what the other overwrote.
    Rw,
    /// The same process did it first.
    Process,
    /// It was answered before the other began.
    RealTime,
}

impl Order {
    /// In a word.
    fn name(self) -> &'static str {
        match self {
            Order::Ww => "ww",
            Order::Wr => "wr",
            Order::Rw => "rw",
            Order::Process => "process",
            Order::RealTime => "rt",
        }
    }
}

/// Which orders a cycle may use beside those of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// None.
    Data,
    /// Each process's.
    Process,
    /// Real time's.
    RealTime,
}

/// An edge.
#[derive(Clone, Debug)]
pub struct Edge {
    order: Order,
    /// What it was inferred from.
    scope: Scope,
    key: Value,
    from: Value,
    to: Value,
}

/// Dependencies between transactions; nodes are their numbers.
pub(crate) struct Graph {
    graph: DiGraph<usize, Edge>,
    nodes: HashMap<usize, NodeIndex>,
    known: HashSet<(usize, usize, Order, Scope)>,
}

impl Graph {
    pub(crate) fn new() -> Self {
        Self { graph: DiGraph::new(), nodes: HashMap::new(), known: HashSet::new() }
    }

    fn node(&mut self, txn: usize) -> NodeIndex {
        *self.nodes.entry(txn).or_insert_with(|| self.graph.add_node(txn))
    }

    /// Adds a dependency through a key, where `to` is the later version for `Ww` and `Rw`.
    pub(crate) fn add(
        &mut self,
        (order, scope): (Order, Scope),
        (a, b): (usize, usize),
        key: &Value,
        from: &Value,
        to: &Value,
    ) {
        // One edge of a kind is as good as another.
        if a == b || !self.known.insert((a, b, order, scope)) {
            return;
        }
        let (a, b) = (self.node(a), self.node(b));
        let edge = Edge { order, scope, key: key.clone(), from: from.clone(), to: to.clone() };
        self.graph.add_edge(a, b, edge);
    }

    /// Adds the orders of processes and of real time among the transactions that are in the graph.
    pub(crate) fn add_time(&mut self, txns: &Txns) {
        let mut present: Vec<usize> = self.nodes.keys().copied().collect();
        present.sort_unstable_by_key(|n| txns.all[*n].invoke);
        let mut last: BTreeMap<Process, usize> = BTreeMap::new();
        for n in &present {
            if let Some(before) = last.insert(txns.all[*n].process, *n) {
                self.add(
                    (Order::Process, Scope::Process),
                    (before, *n),
                    &Value::Nil,
                    &Value::Nil,
                    &Value::Nil,
                );
            }
        }
        let spans = present.iter().map(|n| (*n, txns.all[*n].invoke, txns.all[*n].complete));
        for (a, b) in real_time(spans) {
            self.add((Order::RealTime, Scope::RealTime), (a, b), &Value::Nil, &Value::Nil, &Value::Nil);
        }
    }

    /// Names the cycles.
    pub(crate) fn report(&self, txns: &Txns, verdict: &mut Verdict) {
        verdict.note(format!("{} dependencies", self.graph.edge_count()));
        for scope in [Scope::Data, Scope::Process, Scope::RealTime] {
            let classes: [(&str, Order, &[Order]); 4] = [
                ("G0", Order::Ww, &[Order::Ww]),
                ("G1c", Order::Wr, &[Order::Ww, Order::Wr]),
                ("G-single", Order::Rw, &[Order::Ww, Order::Wr]),
                ("G2-item", Order::Rw, &[Order::Ww, Order::Wr, Order::Rw]),
            ];
            for (name, first, rest) in classes {
                self.report_class(name, first, rest, scope, txns, verdict);
            }
        }
    }

    /// Cycles of an edge of order `first` and a way back over edges of orders `rest` and of the scope.
    fn report_class(
        &self,
        name: &str,
        first: Order,
        rest: &[Order],
        scope: Scope,
        txns: &Txns,
        verdict: &mut Verdict,
    ) {
        let in_scope = |edge: &Edge| edge.scope == Scope::Data || edge.scope == scope;
        let is_time = |edge: &Edge| matches!(edge.order, Order::Process | Order::RealTime);
        let back = |edge: &Edge| in_scope(edge) && (is_time(edge) || rest.contains(&edge.order));
        let any = |edge: &Edge| back(edge) || (in_scope(edge) && edge.order == first);
        let filtered =
            EdgeFiltered::from_fn(&self.graph, |edge: petgraph::graph::EdgeReference<'_, Edge>| {
                any(edge.weight())
            });
        let mut described = 0;
        for component in kosaraju_scc(&filtered).into_iter().filter(|c| c.len() > 1) {
            if described == COMPONENTS_MAX {
                verdict.note(format!("more cycles of class {name} are not described"));
                break;
            }
            let members: HashSet<NodeIndex> = component.iter().copied().collect();
            let starts = component.iter().flat_map(|node| self.graph.edges(*node));
            let starts = starts.filter(|edge| {
                edge.weight().order == first && in_scope(edge.weight()) && members.contains(&edge.target())
            });
            let mut best: Option<Vec<EdgeIndex>> = None;
            for start in starts.take(STARTS_MAX) {
                let Some(mut path) = self.path(start.target(), start.source(), &members, &back) else {
                    continue;
                };
                path.insert(0, start.id());
                let has = |wanted: &dyn Fn(&Edge) -> bool| path.iter().any(|e| wanted(&self.graph[*e]));
                // What needs no time was found without it; what has one read-write edge is G-single.
                let needs_scope = scope == Scope::Data || has(&|e| e.scope == scope);
                let rw = path.iter().filter(|e| self.graph[**e].order == Order::Rw).count();
                if needs_scope
                    && (name != "G2-item" || rw > 1)
                    && best.as_ref().is_none_or(|b| path.len() < b.len())
                {
                    best = Some(path);
                }
            }
            if let Some(cycle) = best {
                described += 1;
                self.describe(name, scope, &cycle, txns, verdict);
            }
        }
    }

    /// The shortest way within a component.
    fn path(
        &self,
        from: NodeIndex,
        to: NodeIndex,
        members: &HashSet<NodeIndex>,
        allowed: &dyn Fn(&Edge) -> bool,
    ) -> Option<Vec<EdgeIndex>> {
        let mut came: HashMap<NodeIndex, (NodeIndex, EdgeIndex)> = HashMap::new();
        let mut queue = VecDeque::from([from]);
        while let Some(node) = queue.pop_front() {
            if node == to {
                let mut path = Vec::new();
                let mut at = to;
                while at != from {
                    let (before, edge) = came[&at];
                    path.push(edge);
                    at = before;
                }
                path.reverse();
                return Some(path);
            }
            // Data first: a cycle that needs no time is the better explanation.
            let mut edges: Vec<_> = self.graph.edges(node).filter(|e| allowed(e.weight())).collect();
            edges.sort_by_key(|e| e.weight().scope != Scope::Data);
            for edge in edges {
                let next = edge.target();
                if members.contains(&next) && next != from && !came.contains_key(&next) {
                    came.insert(next, (node, edge.id()));
                    queue.push_back(next);
                }
            }
        }
        None
    }

    fn describe(&self, name: &str, scope: Scope, cycle: &[EdgeIndex], txns: &Txns, verdict: &mut Verdict) {
        let suffix = match scope {
            Scope::Data => "",
            Scope::Process => "-process",
            Scope::RealTime => "-realtime",
        };
        let mut about = format!("a cycle of {} transactions", cycle.len());
        let (mut ops, mut edges) = (Vec::new(), Vec::new());
        for (n, edge) in cycle.iter().enumerate() {
            let Some((source, _)) = self.graph.edge_endpoints(*edge) else { continue };
            let txn = self.graph[source];
            about += &format!("\nT{} = {}", n + 1, txns.show(txn));
            ops.push(txns.all[txn].invoke);
            edges.push(self.graph[*edge].order.name());
        }
        for (n, edge) in cycle.iter().enumerate() {
            let Edge { order, key, from, to, .. } = &self.graph[*edge];
            let (a, b) = (n + 1, (n + 1) % cycle.len() + 1);
            about += &match order {
                Order::Ww => format!("\nT{a} < T{b} (ww): {to} of {key} follows {from}"),
                Order::Wr => format!("\nT{a} < T{b} (wr): T{b} read {to} of {key}"),
                Order::Rw => format!("\nT{a} < T{b} (rw): T{a} read {from} of {key}, not {to}"),
                Order::Process => format!("\nT{a} < T{b}: the same process did T{a} first"),
                Order::RealTime => format!("\nT{a} < T{b} (rt): T{a} was answered before T{b} began"),
            };
        }
        verdict.cycle(format!("{name}{suffix}"), about, ops, edges);
    }
}

/// Who was answered before who began, without what follows from other pairs.
pub(crate) fn real_time(spans: impl Iterator<Item = (usize, usize, Option<usize>)>) -> Vec<(usize, usize)> {
    let mut events: Vec<(usize, bool, usize)> = Vec::new();
    for (txn, invoke, complete) in spans {
        events.push((invoke, true, txn));
        events.extend(complete.map(|at| (at, false, txn)));
    }
    events.sort_unstable();
    let mut edges = Vec::new();
    // The completed ones that no other completed one follows.
    let mut frontier: Vec<usize> = Vec::new();
    let mut before: HashMap<usize, Vec<usize>> = HashMap::new();
    for (_, begins, txn) in events {
        if begins {
            edges.extend(frontier.iter().map(|earlier| (*earlier, txn)));
            before.insert(txn, frontier.clone());
        } else {
            let covered = before.remove(&txn).unwrap_or_default();
            frontier.retain(|earlier| !covered.contains(earlier));
            frontier.push(txn);
        }
    }
    edges
}
