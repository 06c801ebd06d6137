//! Which links are in trouble.

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::links::{Link, between};

/// Which links.
#[derive(Clone, Copy, Debug)]
pub(super) enum Which {
    /// All between the victims and the others.
    Both,
    /// What the victims send.
    Outgoing,
    /// What they are sent.
    Incoming,
    /// All among the victims: the others reach everybody, and the victims each other only by way of them.
    Among,
    /// In a ring of all, each hears only the next ones, who make a majority with it: no two hear the same.
    Ring,
}

/// The links that are in trouble.
pub(super) fn hit(which: Which, victims: &[usize], all: &[usize], dice: u64) -> Vec<Link> {
    let others: Vec<usize> = all.iter().copied().filter(|node| !victims.contains(node)).collect();
    let mut links = match which {
        Which::Among => between(victims, victims),
        Which::Ring => {
            let mut ring = all.to_vec();
            ring.shuffle(&mut StdRng::seed_from_u64(dice));
            let place = |node| ring.iter().position(|other| *other == node).unwrap_or(0);
            // From how far ahead each hears.
            let reach = ring.len() / 2;
            let heard = |(from, to): &Link| (place(*from) + ring.len() - place(*to)) % ring.len() <= reach;
            return between(all, all).into_iter().filter(|link| !heard(link)).collect();
        }
        _ => between(victims, &others),
    };
    links.retain(|(from, to)| match which {
        Which::Outgoing => victims.contains(from),
        Which::Incoming => victims.contains(to),
        Which::Both | Which::Among | Which::Ring => true,
    });
    links
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn in_a_ring_everyone_hears_a_majority_and_no_two_the_same() {
        for nodes in [3, 4, 5, 7] {
            let all: Vec<usize> = (1..=nodes).collect();
            let cut = hit(Which::Ring, &all, &all, 9);
            let heard = |to: usize| -> BTreeSet<usize> {
                all.iter().copied().filter(|from| !cut.contains(&(*from, to))).collect()
            };
            let majorities: BTreeSet<BTreeSet<usize>> = all.iter().map(|to| heard(*to)).collect();
            assert_eq!(majorities.len(), nodes, "{cut:?}");
            assert!(majorities.iter().all(|heard| 2 * heard.len() > nodes), "{majorities:?}");
        }
    }

    #[test]
    fn one_way_partitions_are_one_way() {
        assert_eq!(hit(Which::Outgoing, &[2], &[1, 2, 3], 0), [(2, 1), (2, 3)]);
        assert_eq!(hit(Which::Incoming, &[2], &[1, 2, 3], 0), [(1, 2), (3, 2)]);
        assert_eq!(hit(Which::Among, &[1, 2], &[1, 2, 3], 0), [(1, 2), (2, 1)]);
    }
}
