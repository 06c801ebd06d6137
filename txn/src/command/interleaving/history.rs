//! Whether some order of the transactions explains what clients saw.

use super::client::{Client, Told};
use super::world::KEYS;

/// Who wrote what stands under each key; nobody, or a deletion: `None`.
pub type Writers = [Option<usize>; KEYS];

/// See `tests/model/history.rs`: the same question, of the same kind of answer.
pub fn is_strictly_serializable(clients: &[Client], finally: &Writers) -> bool {
    place(clients, 0, [None; KEYS], finally)
}

fn place(clients: &[Client], placed: u32, now: Writers, finally: &Writers) -> bool {
    let is_placed = |at: usize| placed & 1 << at != 0;
    let must = |at: usize| clients[at].told == Told::Committed;
    if now == *finally && (0..clients.len()).all(|at| is_placed(at) || !must(at)) {
        return true;
    }
    (0..clients.len()).any(|at| {
        let client = &clients[at];
        let fits = !is_placed(at)
            && client.began
            && client.told != Told::Failed
            && client.before.iter().all(|other| is_placed(*other))
            && client.seen.iter().all(|(key, writer)| now[*key] == *writer)
            && client.script.writes.iter().all(|write| !write.absent || now[write.key].is_none());
        let mut then = now;
        for write in &client.script.writes {
            then[write.key] = (!write.delete).then_some(at);
        }
        fits && place(clients, placed | 1 << at, then, finally)
    })
}
