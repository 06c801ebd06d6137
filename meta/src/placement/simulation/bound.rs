//! How many moves are needed at least.

use std::collections::HashMap;

use crate::placement::fill::DIMENSIONS;
use crate::placement::survey::amount;
use crate::placement::view::View;
use crate::placement::{Description, Policy, survey};

/// No plan can do with fewer moves than this.
///
/// Every replica on a node that is gone or leaving has to be built anew. Beside that, in each dimension: a node that is
/// above its band has to give so many replicas, the largest first, and one that is below has to take so many, of the
/// largest there are. What one gives another takes, and one move may help in several dimensions, so it is the largest of
/// these numbers that counts.
pub fn moves_min(cluster: &Description, policy: &Policy) -> usize {
    let view = View::new(cluster, policy);
    let fill = survey::survey(&view).fill;
    let mut sizes: HashMap<usize, Vec<[f64; DIMENSIONS]>> = HashMap::new();
    let mut lost = 0;
    let mut largest = [0.0f64; DIMENSIONS];
    for group in &cluster.groups {
        let amount = amount(group);
        for replica in &group.replicas {
            let node = view.index(replica.node);
            lost += usize::from(view.nodes[node].leaving);
            sizes.entry(node).or_default().push(amount);
        }
        for (largest, amount) in largest.iter_mut().zip(amount) {
            *largest = largest.max(amount);
        }
    }
    let serving = || (0..view.described().len()).filter(|n| !view.nodes[*n].leaving);
    let mut least = lost;
    for dimension in 0..DIMENSIONS {
        let gives = |node: usize| {
            let mut above = fill.outside(node, dimension);
            let mut own: Vec<f64> = sizes.get(&node).into_iter().flatten().map(|a| a[dimension]).collect();
            own.sort_by(|a, b| b.total_cmp(a));
            own.iter()
                .take_while(|size| {
                    let gives = above > 0.0;
                    above -= **size;
                    gives
                })
                .count()
        };
        let takes =
            |node: usize| (-fill.outside(node, dimension) / largest[dimension].max(1.0)).ceil().max(0.0);
        let given: usize = serving().map(gives).sum();
        let taken: f64 = serving().map(takes).sum();
        least = least.max(given).max(taken as usize);
    }
    least
}
