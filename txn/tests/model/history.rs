//! What must hold of what clients saw.

use crate::protocol::{Protocol, bits};
use crate::state::{Id, KEYS, LATEST, State, Told};

/// Whether some order of the transactions explains everything: each reads what the one before has left, and whoever
/// began after another was acknowledged comes after it. All acknowledged transactions are in that order, none that has
/// failed, and those of whom nobody was told, or nothing certain, where they fit.
///
/// At rest there is one more reader, who comes after everyone and sees all keys: so nothing acknowledged is lost.
pub fn is_strictly_serializable(protocol: &Protocol, state: &State, at_rest: bool) -> bool {
    let told = |what: Told| -> u8 {
        protocol.ids().filter(|id| state.txns[*id].told == what).map(|id| 1 << id).sum()
    };
    let began = protocol.ids().filter(|id| state.txns[*id] != Default::default());
    let must = told(Told::Committed);
    let may = (told(Told::Ambiguous) | told(Told::Nothing)) & began.map(|id| 1 << id).sum::<u8>();
    let finally = at_rest.then(|| {
        std::array::from_fn(|key| state.versions[key].at(LATEST).map_or(1, |(_, writer)| seen(writer)))
    });
    place(protocol, state, must, may, 0, [1; KEYS], &finally)
}

/// A writer as `Txn::seen` names it.
pub fn seen(writer: Id) -> u8 {
    writer as u8 + 2
}

/// Tries whom to place next. `now` is who wrote each key last.
fn place(
    protocol: &Protocol,
    state: &State,
    must: u8,
    may: u8,
    placed: u8,
    now: [u8; KEYS],
    finally: &Option<[u8; KEYS]>,
) -> bool {
    if must & !placed == 0 && finally.is_none_or(|finally| finally == now) {
        return true;
    }
    bits((must | may) & !placed).any(|id| {
        let (txn, script) = (&state.txns[id], &protocol.scripts[id]);
        let in_time = txn.before & must & !placed == 0;
        if !in_time || bits(script.reads).any(|key| txn.seen[key] != now[key]) {
            return false;
        }
        let mut then = now;
        bits(script.writes).for_each(|key| then[key] = seen(id));
        place(protocol, state, must, may, placed | 1 << id, then, finally)
    })
}

/// At rest, a transaction has all of its versions, at one timestamp, or none.
pub fn half_done(protocol: &Protocol, state: &State) -> Option<String> {
    protocol.ids().find_map(|id| {
        let keys = bits(protocol.scripts[id].writes);
        let mut found = keys.map(|key| state.versions[key].by(id).collect::<Vec<_>>());
        let first = found.next()?;
        let whole = first.len() <= 1 && found.all(|versions| versions == first);
        (!whole).then(|| format!("transaction {id} is there by half, or twice"))
    })
}
