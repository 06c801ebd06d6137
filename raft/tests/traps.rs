//! The traps of openraft that are listed in `raft/src/lib.rs`: each of these tests fails without the remedy that it names.
//!
//! Most have one real node, whose peers the test plays, so that nothing else can happen than what is looked at. No test
//! asserts how long something takes: where silence is waited for, a slow machine makes it no shorter.

#![allow(clippy::disallowed_methods, reason = "tests of the real thing run on the real clock")]

mod harness;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use harness::links::Links;
use harness::puppet::{Puppet, agree, append, ask, is_success, voter};
use harness::{Cluster, GROUP, eventually, eventually_so};
use proto::raft as wire;
use proto::raft::answer::Body as Answer;
use proto::raft::request::Body;
use raft::{ChangeError, Group, NewGroup, RaftOptions};
use storage::ids::{NodeId, ReplicaId, Term};

/// The real node, where there is only one.
const ME: u64 = 1;
/// Longer than any test.
const FOR_EVER: Duration = Duration::from_secs(90);

/// Makes the group of nodes 1 to 3 on `node`.
async fn create(cluster: &Cluster, node: u64, campaign: bool) {
    let members: BTreeMap<_, _> = (1..=3).map(|n| (ReplicaId(n), NodeId(n))).collect();
    let new = NewGroup { group: GROUP, me: ReplicaId(node), members, campaign };
    cluster.multi(node).create_group(new).await.expect("create");
}

async fn puppets(cluster: &Cluster) -> [Puppet; 2] {
    [Puppet::start(cluster, 2).await, Puppet::start(cluster, 3).await]
}

/// Node 1 leads, and both puppets have its log.
async fn lead(cluster: &mut Cluster) -> [Puppet; 2] {
    let puppets = puppets(cluster).await;
    cluster.start(ME).await;
    create(cluster, ME, true).await;
    cluster.put("a", "1").await;
    let group = cluster.group(ME);
    eventually("the others have the log", || {
        let progress = group.status().progress;
        progress.len() == 2 && progress.values().all(|p| p.lag == 0 && p.matched.is_some())
    })
    .await;
    puppets
}

fn first_index(append: &wire::Append) -> u64 {
    append.entries.first().map_or(0, |entry| entry.index)
}

/// Guards `Network::stream_append`: openraft's own sends an append only when the one before is answered, and when that is
/// given up, begins again with the same entry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_goes_out_while_an_earlier_one_is_not_answered() {
    let mut cluster = Cluster::new();
    // Nothing is given up.
    cluster.options.request_timeout = FOR_EVER;
    let [slow, _quick] = lead(&mut cluster).await;
    slow.play(|asked| match asked {
        Body::Append(append) if !append.entries.is_empty() => None,
        other => agree(other),
    });
    let known = cluster.group(ME).status().last.expect("a log").0;
    let has_begun_at = |index: u64| slow.appends().iter().any(|append| first_index(append) == index);
    cluster.put("b", "1").await;
    eventually("the first one is under way", || has_begun_at(known + 1)).await;
    cluster.put("c", "1").await;
    eventually("the second one goes out all the same", || has_begun_at(known + 2)).await;
}

/// Guards `limited_get_log_entries` of the log store: openraft bounds an append by the number of its entries only, and what
/// has gathered while a follower was away would come in one message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_holds_no_more_bytes_than_it_may() {
    const BYTES_MAX: usize = 4096;
    const WRITES: u64 = 50;
    let mut cluster = Cluster::new();
    cluster.options.append_bytes_max = BYTES_MAX;
    cluster.options.proposal_bytes_in_flight_max = 1 << 20;
    cluster.options.propose_timeout = FOR_EVER;
    let puppets = lead(&mut cluster).await;
    for puppet in &puppets {
        puppet.play(|asked| match asked {
            Body::Append(append) if !append.entries.is_empty() => {
                let reason = wire::refusal::Reason::Stopped as i32;
                Some(Answer::Refusal(wire::Refusal { reason, detail: "not now".to_owned() }))
            }
            other => agree(other),
        });
    }
    let group = cluster.group(ME);
    let (_, term) = cluster.leader().await;
    let known = group.status().last.expect("a log").0;
    let writes: Vec<_> = (0..WRITES)
        .map(|n| {
            let (group, command) = (group.clone(), format!("k{n}={}", "x".repeat(900)));
            tokio::spawn(async move { group.propose(term, command.into()).await })
        })
        .collect();
    eventually("they gather", || group.status().last.is_some_and(|last| last.0 >= known + WRITES)).await;
    for puppet in &puppets {
        puppet.play(agree);
    }
    for write in writes {
        write.await.expect("a task").expect("propose");
    }
    let command = |entry: &wire::Entry| match &entry.payload {
        Some(wire::entry::Payload::Command(command)) => command.len(),
        _ => 0,
    };
    let appends: Vec<_> = puppets.iter().flat_map(Puppet::appends).collect();
    for append in &appends {
        let bytes: usize = append.entries.iter().map(command).sum();
        assert!(bytes <= BYTES_MAX || append.entries.len() == 1, "{bytes} bytes in one append");
    }
    assert!(appends.iter().any(|append| append.entries.len() > 1), "several were sent together");
}

/// Guards `enable_pre_vote`, and `Network::pre_vote`: without the one openraft asks for votes at once; the other one's default
/// grants without asking, so that votes are asked for right after. Either raises the term, and deposes a leader that others hear.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_refused_beforehand_disturbs_nobody() {
    let mut cluster = Cluster::new();
    let puppets = puppets(&cluster).await;
    for puppet in &puppets {
        puppet.play(|asked| match asked {
            Body::PreVote(_) => {
                let vote = Some(wire::Vote { term: 0, replica: 0, committed: false });
                Some(Answer::Vote(wire::VoteAnswer { vote, granted: false, last: None }))
            }
            other => agree(other),
        });
    }
    cluster.start(ME).await;
    // By its own timers.
    create(&cluster, ME, false).await;
    let votes = |puppet: &Puppet| puppet.count(|asked| matches!(asked, Body::Vote(_)));
    let pre_votes = |puppet: &Puppet| puppet.count(|asked| matches!(asked, Body::PreVote(_)));
    eventually("it asks several times", || {
        puppets.iter().all(|puppet| pre_votes(puppet) >= 3) || puppets.iter().any(|puppet| votes(puppet) > 0)
    })
    .await;
    assert_eq!(puppets.iter().map(votes).sum::<usize>(), 0);
    assert_eq!(cluster.group(ME).status().term, Term(0));
    // Not for lack of trying.
    for puppet in &puppets {
        puppet.play(agree);
    }
    cluster.leader().await;
}

/// Guards the receiving end of pre-votes (`handle_vote`): one that was taken for a vote would bind this replica, which then
/// refuses the leader of the present term.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_grants_a_pre_vote_has_promised_nothing() {
    let mut cluster = Cluster::new();
    cluster.options.election_max = FOR_EVER;
    cluster.start(ME).await;
    create(&cluster, ME, false).await;
    let request = |last| {
        let vote = Some(wire::Vote { term: 9, replica: 3, committed: false });
        Body::PreVote(wire::VoteRequest { vote, last: Some(last), leadership_transfer: false })
    };
    let granted = |answer: Answer| match answer {
        Answer::Vote(answer) => answer.granted,
        other => panic!("{other:?}"),
    };
    let before = ask(&cluster, 3, ME, request(wire::LogId { term: 0, index: 0 })).await;
    assert!(granted(before), "nobody leads");
    let appended = ask(&cluster, 2, ME, append(2, 5, 1)).await;
    assert!(is_success(&appended), "{appended:?}");
    let after = ask(&cluster, 3, ME, request(wire::LogId { term: 5, index: 1 })).await;
    assert!(!granted(after), "the leader may rely on its lease");
}

/// Hands over to 2, whatever comes of it.
async fn hand_over(group: Arc<Group>) -> Result<(), ChangeError> {
    loop {
        match group.transfer_leader(ReplicaId(2)).await {
            // Its answers were late for a moment.
            Err(ChangeError::Refused(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
            other => return other,
        }
    }
}

fn told_to_lead(puppet: &Puppet) -> bool {
    puppet.count(|asked| matches!(asked, Body::TransferLeader(_))) > 0
}

/// Guards the time limit in `Group::transfer_leader`: openraft says nothing of a transfer that fails, and whoever waits for
/// the next leader would wait for ever. And that its leader goes on with a new instance (`rest/renew.rs`), which is heard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_that_fails_is_given_up_and_its_leader_is_heard_again() {
    let mut cluster = Cluster::new();
    let puppets = lead(&mut cluster).await;
    let group = cluster.group(ME);
    let (_, term) = cluster.leader().await;
    let outcome = tokio::time::timeout(FOR_EVER, hand_over(group.clone())).await.expect("it is given up");
    assert!(matches!(outcome, Err(ChangeError::TimedOut(_))), "{outcome:?}");
    assert!(group.propose(term, "b=1".into()).await.is_err(), "in that term it writes no more");
    eventually("it leads again", || group.leads().is_some_and(|later| later > term)).await;
    cluster.put("b", "1").await;
    let is_heartbeat = |asked: &Body| matches!(asked, Body::Append(append) if append.entries.is_empty());
    let heartbeats = || puppets.iter().map(|puppet| puppet.count(is_heartbeat)).sum::<usize>();
    let before = heartbeats();
    eventually("it is heard", || heartbeats() >= before + 10).await;
}

/// One of three is gone, and the one that is to take over neither does nor stands for election by itself: as long as the leader did not, either,
/// nobody wrote any more. Whether or not somebody waits for what comes of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_could_not_hand_over_leads_again_with_the_vote_of_one() {
    for waited_for in [true, false] {
        let mut cluster = Cluster::new();
        let [target, gone] = lead(&mut cluster).await;
        let mut votes = voter();
        target.play(move |asked| match asked {
            Body::TransferLeader(_) => {
                let detail = "not now".to_owned();
                Some(Answer::Transfer(wire::TransferAnswer { accepted: false, detail }))
            }
            other => votes(other),
        });
        gone.play(|_| None);
        let group = cluster.group(ME);
        let (_, term) = cluster.leader().await;
        let handing_over = tokio::spawn(hand_over(group.clone()));
        if waited_for {
            let outcome = handing_over.await.expect("a task");
            assert!(matches!(outcome, Err(ChangeError::TimedOut(_))), "{outcome:?}");
        } else {
            eventually("it hands over", || told_to_lead(&target)).await;
            handing_over.abort();
        }
        eventually("it leads again", || group.leads().is_some_and(|later| later > term)).await;
        cluster.put("b", "1").await;
    }
}

/// The effect of that in a whole: a group whose leader could not hand over writes again, for its leader is silent as long as the transfer lasts, and
/// another one is elected, or itself again after that. (The one that is to take over never does.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_to_one_that_never_takes_over_ends_in_an_election() {
    let mut cluster = Cluster::new();
    let idle = Puppet::start(&cluster, 2).await;
    idle.play(voter());
    for node in [1, 3] {
        cluster.start(node).await;
        create(&cluster, node, node == 1).await;
    }
    let deadline = tokio::time::Instant::now() + FOR_EVER;
    let begun = loop {
        cluster.put("a", "1").await;
        cluster.converge(&[1, 3]).await;
        let (leader, term) = cluster.leader().await;
        match cluster.group(leader).transfer_leader(ReplicaId(2)).await {
            // Its answers were late for a moment, or the leader has just changed by itself.
            Err(ChangeError::Refused(_) | ChangeError::NotLeader(_)) => {
                assert!(tokio::time::Instant::now() < deadline, "it was always refused");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(()) | Err(ChangeError::TimedOut(_)) => break term,
            other => panic!("{other:?}"),
        }
    };
    assert!(told_to_lead(&idle), "it was told");
    cluster.put("b", "2").await;
    let (_, later) = cluster.leader().await;
    assert!(later > begun, "another election");
}

/// Guards `Group::is_gated`: openraft restores a vote without the lease that came with it, and would help to elect another leader
/// while the present one still relies on that lease.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_votes_as_long_as_a_promise_from_before_its_restart_may_count() {
    for crashes in [false, true] {
        let mut cluster = Cluster::new();
        cluster.start(ME).await;
        create(&cluster, ME, false).await;
        assert!(is_success(&ask(&cluster, 2, ME, append(2, 5, 1)).await));
        eventually("it is applied", || cluster.applied_commands(ME) == 1).await;
        match crashes {
            // … and is to be applied again: the group wakes at once.
            true => cluster.crash(ME).await,
            false => cluster.stop(ME).await,
        }
        cluster.options.election_max = FOR_EVER;
        cluster.start(ME).await;
        assert_eq!(cluster.group(ME).rests(), !crashes);
        let request = wire::VoteRequest {
            vote: Some(wire::Vote { term: 9, replica: 3, committed: false }),
            last: Some(wire::LogId { term: 5, index: 1 }),
            leadership_transfer: false,
        };
        let transfer = wire::TransferLeader {
            from: Some(wire::Vote { term: 5, replica: 2, committed: true }),
            to_replica: ME,
            last: request.last,
        };
        for body in [Body::PreVote(request), Body::Vote(request), Body::TransferLeader(transfer)] {
            let answer = ask(&cluster, 3, ME, body).await;
            let starting = wire::refusal::Reason::Starting;
            assert!(matches!(&answer, Answer::Refusal(r) if r.reason() == starting), "{answer:?}");
        }

        // When the promise must have lapsed, it does.
        cluster.kill(ME).await;
        cluster.options.election_max = RaftOptions::default().election_max;
        cluster.start(ME).await;
        let cluster = &cluster;
        eventually_so("it votes", || async move {
            matches!(ask(cluster, 3, ME, Body::Vote(request)).await, Answer::Vote(vote) if vote.granted)
        })
        .await;
    }
}

/// Guards `hush` in `liveness/beat.rs`: openraft goes on to send for a lease's length, and after that by turns (the next
/// test), never silent for as long as this.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_nobody_answers_falls_silent_until_somebody_does() {
    let mut cluster = Cluster::new();
    let silence = 6 * cluster.options.election_max;
    let puppets = lead(&mut cluster).await;
    for puppet in &puppets {
        puppet.play(|_| None);
    }
    eventually("it is silent", || puppets.iter().all(|puppet| puppet.left_alone_for() > silence)).await;
    for puppet in &puppets {
        puppet.play(agree);
    }
    cluster.put("b", "1").await;
}

/// Guards `quorum_loss_probe_interval`, for a leader whose pulses are answered but not what it sends of the group: without
/// it, heartbeats never pause, and keep others from electing that could have a majority.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_appends_nobody_answers_pauses_and_tries_again() {
    let mut cluster = Cluster::new();
    // It pauses for twice as long.
    cluster.options.election_max = Duration::from_secs(2);
    // What was on its way when the answers end is not sent again.
    cluster.options.request_timeout = FOR_EVER;
    let silence = cluster.options.election_max * 5 / 4;
    let puppets = lead(&mut cluster).await;
    for puppet in &puppets {
        puppet.play(|asked| match asked {
            Body::Append(_) => None,
            other => agree(other),
        });
    }
    eventually("it pauses", || puppets.iter().all(|puppet| puppet.left_alone_for() > silence)).await;
    let appends = || puppets.iter().map(|puppet| puppet.appends().len()).sum::<usize>();
    let before = appends();
    eventually("it tries again", || appends() > before).await;
}

/// Guards what the last two do together: followers that hear the heartbeats of a leader which hears nobody elect another.
/// Without both they never do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_hears_nobody_is_replaced_though_it_is_heard() {
    let links = Arc::new(Links::default());
    let mut cluster = Cluster::new();
    for node in 1..=3 {
        cluster.network = Some(links.of(node));
        cluster.start(node).await;
        links.name(node, cluster.address(node));
    }
    for node in 1..=3 {
        create(&cluster, node, node == 1).await;
    }
    cluster.put("a", "1").await;
    cluster.converge(&[1, 2, 3]).await;
    let (deaf, term) = cluster.leader().await;
    let others: Vec<u64> = (1..=3).filter(|node| *node != deaf).collect();
    others.iter().for_each(|other| links.close(*other, deaf));
    eventually("another one leads", || {
        others.iter().any(|node| cluster.group(*node).leads().is_some_and(|later| later > term))
    })
    .await;
    links.open();
    cluster.put("b", "2").await;
    cluster.converge(&[1, 2, 3]).await;
    assert!((1..=3).all(|node| cluster.get(node, "b").as_deref() == Some("2")));
}

/// Guards that the log is cut only up to what is flushed (`Builder::build_snapshot`, `checkpoint`): openraft cuts it up to
/// the last entry of the "snapshot". If that were the last one applied, the start after a crash would find a hole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_cut_while_it_is_written_lacks_nothing_after_a_crash() {
    let mut cluster = Cluster::new();
    cluster.options.keep_entries = 0;
    cluster.start(ME).await;
    let members = BTreeMap::from([(ReplicaId(ME), NodeId(ME))]);
    let new = NewGroup { group: GROUP, me: ReplicaId(ME), members, campaign: true };
    cluster.multi(ME).create_group(new).await.expect("create");
    cluster.put("first", "1").await;
    let cut = std::cell::Cell::new(false);
    let writing = async {
        let mut written = 0;
        // (Once more after the last cut: that is not flushed.)
        loop {
            let last = cut.get();
            cluster.put(&format!("k{written}"), "1").await;
            written += 1;
            if last {
                return written;
            }
        }
    };
    let cutting = async {
        for _ in 0..10 {
            cluster.multi(ME).checkpoint().await.expect("checkpoint");
        }
        cut.set(true);
    };
    let (written, ()) = futures::join!(writing, cutting);
    let group = cluster.group(ME);
    eventually("the log is cut", || group.status().purged.is_some_and(|index| index.0 > 1)).await;
    let status = group.status();
    assert!(status.purged <= status.flushed && status.flushed < status.applied, "{status:?}");
    drop(group);

    cluster.crash(ME).await;
    cluster.start(ME).await;
    cluster.put("last", "1").await;
    for n in 0..written {
        assert_eq!(cluster.get(ME, &format!("k{n}")).as_deref(), Some("1"), "k{n} of {written}");
    }
}

/// Guards `enable_leader_restore`, which is off: restored, a leader leads on in its old term, without an entry of its own and
/// without the lease that its followers granted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_restarted_leads_no_more_in_its_old_term() {
    let mut cluster = Cluster::new();
    let before = lead(&mut cluster).await;
    let (_, term) = cluster.leader().await;
    // What was not flushed is to be applied again: the group wakes at once.
    cluster.crash(ME).await;
    drop(before);
    // Others in their place, whom nothing reaches that was said before.
    let after = puppets(&cluster).await;
    cluster.start(ME).await;
    assert!(!cluster.group(ME).rests());
    cluster.put("b", "1").await;
    let (_, later) = cluster.leader().await;
    assert!(later > term);
    for append in after.iter().flat_map(Puppet::appends) {
        assert!(append.vote.is_some_and(|vote| vote.term > term.0), "{append:?}");
    }
}

/// Guards `save_committed`, and that a start applies what is committed before it returns: otherwise a replica's state goes back
/// by all that was not flushed, until a leader tells it how far it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_replica_has_shown_it_shows_after_a_crash_without_a_leader() {
    const WRITES: u64 = 20;
    let mut cluster = Cluster::new();
    cluster.start(ME).await;
    create(&cluster, ME, false).await;
    for index in 1..=WRITES {
        assert!(is_success(&ask(&cluster, 2, ME, append(2, 5, index)).await), "append {index}");
    }
    eventually("all of it is applied", || cluster.applied_commands(ME) == WRITES as usize).await;
    cluster.crash(ME).await;
    cluster.start(ME).await;
    // (How far it was becomes durable with the next entries, so that of the last ones nothing may be known.)
    let shown: u64 = cluster.get(ME, "k").and_then(|value| value.parse().ok()).unwrap_or(0);
    assert!(shown >= WRITES - 5, "{shown} of {WRITES}");
    let status = cluster.group(ME).status();
    assert!(status.applied.is_some_and(|applied| applied.0 == shown), "{status:?}");
}

/// Guards `Group::confirm_quorum`, and that with quorum reads no lease is given: a leader that relied on its clock would
/// answer though nobody confirms that it leads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_quorum_reads_a_leader_needs_an_answer_for_each_read() {
    let mut cluster = Cluster::new();
    let puppets = lead(&mut cluster).await;
    let group = cluster.group(ME);
    let (_, term) = cluster.leader().await;
    eventually("it has a lease", || group.lease(term).is_ok()).await;
    cluster.multi(ME).set_quorum_reads(true);
    assert!(group.lease(term).is_err(), "no lease is given");
    let confirmed = || async { group.confirm_quorum(term).await.is_ok() };
    eventually_so("a majority confirms it", confirmed).await;
    for puppet in &puppets {
        puppet.play(|_| None);
    }
    // (An answer that is under way is to an earlier message.)
    assert!(group.confirm_quorum(term).await.is_err(), "nobody confirms it");
    assert_eq!(group.leads(), Some(term), "though it is as sure as before that it leads");
    for puppet in &puppets {
        puppet.play(agree);
    }
    eventually_so("they confirm it again", confirmed).await;
}
