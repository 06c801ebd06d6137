//! Defects on demand, so that the harness can be shown to find them.
//!
//! They exist only in a build with the cargo feature `sabotage`; there, `FLOTILLA_SABOTAGE` chooses one by name. In every
//! other build [`is`] is a constant `false`.

/// A way to break a promise of the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Commits don't look at what the transaction has read.
    SkipReadValidation,
    /// The log acknowledges what the kernel holds, without waiting for the disk.
    AnswerBeforeFsync,
    /// A leader answers reads without looking whether it still leads.
    TrustLease,
    /// A new leader of the meta-group hands out timestamps that begin below its predecessor's.
    OracleGoesBack,
    /// Replicas that follow leave out a row now and then.
    LoseRow,
    /// A replica can't apply a row that says `THIS FAILS`.
    FailToApply,
    /// A shard is absorbed before all nodes have its last writes, and nobody looks whether they have.
    AbsorbUnseen,
}

impl Sabotage {
    /// All of them, by the names that `FLOTILLA_SABOTAGE` knows.
    pub const ALL: [(&'static str, Sabotage); 7] = [
        ("skip-read-validation", Sabotage::SkipReadValidation),
        ("answer-before-fsync", Sabotage::AnswerBeforeFsync),
        ("trust-lease", Sabotage::TrustLease),
        ("oracle-goes-back", Sabotage::OracleGoesBack),
        ("lose-row", Sabotage::LoseRow),
        ("fail-to-apply", Sabotage::FailToApply),
        ("absorb-unseen", Sabotage::AbsorbUnseen),
    ];
}

/// Whether this process shall break that promise.
#[cfg(not(feature = "sabotage"))]
#[inline(always)]
pub const fn is(_: Sabotage) -> bool {
    false
}

/// Whether this process shall break that promise.
#[cfg(feature = "sabotage")]
pub fn is(which: Sabotage) -> bool {
    static CHOSEN: std::sync::LazyLock<Option<Sabotage>> = std::sync::LazyLock::new(|| {
        let name = std::env::var("FLOTILLA_SABOTAGE").ok()?;
        let found = Sabotage::ALL.iter().find(|(known, _)| *known == name);
        tracing::error!(
            "this build is broken on purpose: {name} ({})",
            if found.is_some() { "known" } else { "unknown" }
        );
        found.map(|(_, sabotage)| *sabotage)
    });
    *CHOSEN == Some(which)
}
