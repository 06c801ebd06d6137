//! What is wanted of groups: how many replicas, and where.

use super::locality::Locality;

/// No group has more replicas.
pub const REPLICAS_MAX: usize = 15;

/// What is wanted of the groups that refer to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Voters, nodes permitting.
    pub replicas: usize,
    /// Where they may, must and must not be.
    pub constraints: Vec<Constraint>,
    /// Where the leader should be, if it can be. Empty (the default locality): anywhere.
    pub leader_in: Locality,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            replicas: crate::REPLICATION_FACTOR as usize,
            constraints: Vec::new(),
            leader_in: Locality::default(),
        }
    }
}

/// A condition on places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Constraint {
    /// All replicas are in there.
    Within(Locality),
    /// No replica is in there.
    Outside(Locality),
    /// At least so many replicas are in there.
    AtLeast(usize, Locality),
}

impl Rule {
    /// Whether it says where replicas or the leader should be.
    pub fn places(&self) -> bool {
        !self.constraints.is_empty() || self.leader_in != Locality::default()
    }

    /// What of it can't be had with nodes that stand at these places, for whoever has written it.
    pub fn unmet(&self, nodes: &[Locality]) -> Vec<String> {
        let mut unmet = Vec::new();
        let allows = |node: &Locality, constraint: &Constraint| match constraint {
            Constraint::Within(place) => node.lies_in(place),
            Constraint::Outside(place) => !node.lies_in(place),
            Constraint::AtLeast(..) => true,
        };
        let allowed = nodes.iter().filter(|node| self.constraints.iter().all(|c| allows(node, c))).count();
        if allowed == 0 {
            unmet.push("no node is where all replicas shall be: they are anywhere until one is".into());
        } else if allowed < self.replicas.min(nodes.len()) {
            unmet.push(format!(
                "{} where all replicas shall be, though {} are wanted: the others are elsewhere until more nodes are there",
                so_many_are(allowed),
                self.replicas
            ));
        }
        for constraint in &self.constraints {
            let Constraint::AtLeast(count, place) = constraint else { continue };
            let there = nodes.iter().filter(|node| node.lies_in(place)).count();
            if there < *count {
                unmet.push(format!("{} in {place}, where {count} replicas shall be", so_many_are(there)));
            }
        }
        if !self.leader_in.is_empty() && !nodes.iter().any(|node| node.lies_in(&self.leader_in)) {
            unmet.push(format!("no node is in {}, where the leader shall be", self.leader_in));
        }
        unmet
    }
}

/// How operators write it: conditions between semicolons, of which each is one of
///
/// ```text
///   region=eu                 all replicas are in there
///   not zone=a                no replica is in there
///   2 in region=us            at least so many replicas are in there
///   leader in region=eu       the leader is in there, if it can be
/// ```
impl std::str::FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut rule = Rule::default();
        for condition in text.split(';').map(str::trim).filter(|condition| !condition.is_empty()) {
            let place = |text: &str| {
                let place: Locality =
                    text.trim().parse::<Locality>().map_err(|why| format!("{condition:?}: {why}"))?;
                match place == Locality::default() {
                    true => Err(format!("{condition:?} names no place, like region=eu")),
                    false => Ok(place),
                }
            };
            if let Some(outside) = condition.strip_prefix("not ") {
                rule.constraints.push(Constraint::Outside(place(outside)?));
            } else if let Some((what, within)) = condition.split_once(" in ") {
                match (what.trim(), what.trim().parse::<usize>()) {
                    ("leader", _) => rule.leader_in = place(within)?,
                    (_, Ok(count)) if (1..=REPLICAS_MAX).contains(&count) => {
                        rule.constraints.push(Constraint::AtLeast(count, place(within)?));
                    }
                    _ => {
                        return Err(format!(
                            "{condition:?}: what is in a place is \"leader\" or a number of replicas, up to {REPLICAS_MAX}"
                        ));
                    }
                }
            } else {
                rule.constraints.push(Constraint::Within(place(condition)?));
            }
        }
        Ok(rule)
    }
}

fn so_many_are(nodes: usize) -> String {
    match nodes {
        0 => "no node is".into(),
        1 => "one node is".into(),
        _ => format!("{nodes} nodes are"),
    }
}

/// A rule, worked out for the nodes there are.
pub(super) struct Placing {
    /// How many voters there shall be: no more than there are nodes where they may be.
    pub target: usize,
    /// More voters than this are too many, wherever they are.
    pub most: usize,
    /// On how many nodes replicas may be.
    pub room: usize,
    /// The diversity that can be had.
    pub diversity: u32,
    /// By node: whether a replica may be there. Empty: anywhere.
    pub allowed: Vec<bool>,
    /// How many replicas must be on which nodes.
    pub at_least: Vec<(usize, Vec<bool>)>,
    /// By node: whether the leader should be there. Empty: anywhere.
    pub leads_well: Vec<bool>,
}

impl Placing {
    pub fn allows(&self, node: usize) -> bool {
        self.allowed.is_empty() || self.allowed.get(node).copied().unwrap_or(false)
    }

    pub fn leads_well(&self, node: usize) -> bool {
        self.leads_well.is_empty() || self.leads_well.get(node).copied().unwrap_or(false)
    }

    /// How many of so many replicas are misplaced wherever they are: there are no more nodes for them.
    pub fn misplaced_at_least(&self, replicas: usize) -> usize {
        replicas.saturating_sub(self.room)
    }

    /// How many replicas are missing or misplaced if they were on these nodes.
    pub fn violations(&self, nodes: impl Iterator<Item = usize> + Clone) -> usize {
        let misplaced = match self.allowed.is_empty() {
            true => 0,
            false => nodes.clone().filter(|node| !self.allows(*node)).count(),
        };
        let missing = self.at_least.iter().map(|(wanted, there)| {
            wanted.saturating_sub(nodes.clone().filter(|node| there.get(*node) == Some(&true)).count())
        });
        misplaced + missing.sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_as_operators_write_them() {
        let place = |text: &str| text.parse::<Locality>().expect("a place");
        let rule: Rule =
            "region=eu; not zone=a;2 in region=eu,zone=b ; leader in zone=c;".parse().expect("a rule");
        let constraints = vec![
            Constraint::Within(place("region=eu")),
            Constraint::Outside(place("zone=a")),
            Constraint::AtLeast(2, place("region=eu,zone=b")),
        ];
        assert_eq!((rule.constraints, rule.leader_in), (constraints, place("zone=c")));
        assert_eq!("".parse::<Rule>().map(|rule| rule.places()), Ok(false));
        for wrong in
            ["eu", "region=", "0 in region=eu", "all in region=eu", "not", "planet=mars", "leader in "]
        {
            assert!(wrong.parse::<Rule>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_cannot_be_had_is_said() {
        let nodes = ["region=eu,zone=a", "region=eu,zone=b", "region=us"];
        let nodes: Vec<Locality> = nodes.iter().map(|place| place.parse().expect("a place")).collect();
        let unmet = |text: &str| text.parse::<Rule>().expect("a rule").unmet(&nodes);
        for met in ["", "not zone=c", "2 in region=eu; 1 in region=us", "leader in zone=b"] {
            assert_eq!(unmet(met), Vec::<String>::new(), "{met}");
        }
        for (rule, why) in [
            ("region=eux", "no node is where all replicas shall be"),
            ("region=eu; not zone=a", "one node is where all replicas shall be"),
            ("region=eu", "2 nodes are where all replicas shall be"),
            ("2 in region=us", "one node is in region=us, where 2 replicas shall be"),
            ("leader in zone=c", "no node is in zone=c, where the leader shall be"),
        ] {
            let said = unmet(rule);
            assert!(said.len() == 1 && said[0].starts_with(why), "{rule}: {said:?}");
        }
    }
}
