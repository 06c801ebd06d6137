//! What a transaction has read, or where it has laid intents: a set of keys and ranges of bounded size.

use std::collections::BTreeMap;

use bytes::Bytes;
use storage::ids::KeyRange;

/// Past so many spans, neighbours are joined until half are left.
pub const SPANS_MAX: usize = 4096;

/// Disjoint spans in key order. It may come to cover more than was added (never less): where there are too many
/// spans, those that lie closest together (by common prefix) are joined with all that is between them.
#[derive(Clone, Debug, Default)]
pub struct SpanSet {
    /// Start → end. `None`: just the one key, which saves making its end.
    spans: BTreeMap<Bytes, Option<Bytes>>,
}

impl SpanSet {
    /// Adds one key.
    pub fn add_key(&mut self, key: &Bytes) {
        if self.covers(key) {
            return;
        }
        self.spans.insert(key.clone(), None);
        self.bound();
    }

    /// Adds a range.
    pub fn add_range(&mut self, range: &KeyRange) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start.clone(), range.end.clone());
        // A predecessor that reaches into or up to the range is swallowed.
        if let Some((before, Some(its_end))) = self.spans.range(..=start.clone()).next_back()
            && (its_end.is_empty() || *its_end >= start)
        {
            start = before.clone();
            if its_end.is_empty() || (!end.is_empty() && *its_end > end) {
                end = its_end.clone();
            }
        }
        // So is everything that begins inside, or right behind.
        loop {
            let next = self.spans.range(start.clone()..).next();
            let Some((at, its_end)) = next.filter(|(at, _)| end.is_empty() || **at <= end) else {
                break;
            };
            let at = at.clone();
            match its_end {
                Some(its_end) if !end.is_empty() && (its_end.is_empty() || *its_end > end) => {
                    end = its_end.clone()
                }
                None if !end.is_empty() && at == end => break,
                _ => {}
            }
            self.spans.remove(&at);
        }
        self.spans.insert(start, Some(end));
        self.bound();
    }

    /// Whether a key is in the set.
    pub fn covers(&self, key: &[u8]) -> bool {
        match self
            .spans
            .range::<[u8], _>((std::ops::Bound::Unbounded, std::ops::Bound::Included(key)))
            .next_back()
        {
            Some((start, None)) => start == key,
            Some((_, Some(end))) => end.is_empty() || key < &end[..],
            None => false,
        }
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// How many spans there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// The spans as ranges, in key order.
    pub fn ranges(&self) -> impl Iterator<Item = KeyRange> + '_ {
        self.spans.iter().map(|(start, end)| match end {
            Some(end) => KeyRange { start: start.clone(), end: end.clone() },
            None => KeyRange::point(start),
        })
    }

    /// The least range that covers all; `None` for the empty set.
    pub fn hull(&self) -> Option<KeyRange> {
        let (first, _) = self.spans.first_key_value()?;
        let (last, end) = self.spans.last_key_value()?;
        let end = end.clone().unwrap_or_else(|| KeyRange::point(last).end);
        Some(KeyRange { start: first.clone(), end })
    }

    fn bound(&mut self) {
        if self.spans.len() <= SPANS_MAX {
            return;
        }
        let spans: Vec<KeyRange> = self.ranges().collect();
        let mut closeness: Vec<(usize, usize)> = spans
            .windows(2)
            .enumerate()
            .map(|(i, pair)| {
                let common =
                    pair[0].start.iter().zip(pair[1].start.iter()).take_while(|(a, b)| a == b).count();
                (common, i)
            })
            .collect();
        closeness.sort_unstable_by(|a, b| b.cmp(a));
        let mut join = vec![false; spans.len()];
        for (_, i) in closeness.into_iter().take(spans.len() - SPANS_MAX / 2) {
            join[i] = true;
        }
        self.spans.clear();
        let mut spans = spans.into_iter().enumerate();
        let Some((mut last_index, mut open)) = spans.next() else {
            return;
        };
        for (i, span) in spans {
            if join[last_index] {
                open.end = span.end;
            } else {
                self.spans.insert(open.start, Some(open.end));
                open = span;
            }
            last_index = i;
        }
        self.spans.insert(open.start, Some(open.end));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range() -> impl Strategy<Value = KeyRange> {
        let key = proptest::collection::vec(0u8..4, 0..3);
        (key.clone(), key, any::<bool>()).prop_map(|(a, b, point)| match point {
            true => KeyRange::point(&a),
            false => KeyRange::new(a, b),
        })
    }

    proptest! {
        #[test]
        fn set_covers_exactly_what_was_added(ranges in proptest::collection::vec(range(), 0..12)) {
            let mut set = SpanSet::default();
            for range in &ranges {
                match storage::keys::as_point(range) {
                    Some(key) => set.add_key(&Bytes::copy_from_slice(key)),
                    None => set.add_range(range),
                }
            }
            for a in 0u8..5 {
                for b in 0u8..5 {
                    for key in [vec![], vec![a], vec![a, b], vec![a, b, 0], vec![a, b, 2]] {
                        let expected = ranges.iter().any(|r| !r.is_empty() && r.contains(&key));
                        prop_assert_eq!(set.covers(&key), expected, "{:?} in {:?}", key, set);
                    }
                }
            }
            let all: Vec<_> = set.ranges().collect();
            prop_assert!(all.windows(2).all(|w| !w[0].end.is_empty() && w[0].end <= w[1].start));
        }
    }

    #[test]
    fn too_many_spans_are_widened_but_still_cover() {
        let mut set = SpanSet::default();
        let key = |i: u32| Bytes::copy_from_slice(&(i * 3).to_be_bytes());
        for i in 0..20_000 {
            set.add_key(&key(i));
        }
        assert!(set.len() <= SPANS_MAX);
        assert!((0..20_000).all(|i| set.covers(&key(i))));
    }
}
