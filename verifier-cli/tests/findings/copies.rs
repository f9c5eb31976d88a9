//! Makes the vectors of `diff`: two packs of one run, and two mirrors of one log.

use std::collections::BTreeMap;
use std::path::Path;

use sift_spec::evidence::Pack;
use sift_verify::{Code, Gap};
use tempfile::TempDir;

use super::maker::{Case, Side, TRUST, Vectors};
use crate::common::kernel::tiny;
use crate::common::{self, Draft, Scenario, Sealed, index, tiles};

/// What verifying a copy, or comparing two, gives.
type Said<'a> = (&'a [Code], &'a [Gap]);

/// Nothing.
const FINE: Said<'_> = (&[], &[]);

impl Vectors {
    pub(super) fn copies(&mut self) {
        self.copies_of_runs();
        self.copies_of_logs();
    }

    /// Two packs of one run, the shortest.
    fn copies_of_runs(&mut self) {
        let scenario = tiny();
        let sealed = scenario.seal();
        let pack = sealed.pack(&scenario);
        let whole = || pack.write().unwrap();

        // Changed after signing, in an entry that is none of the run's.
        let mut edited = pack.clone();
        common::spoil_signature(edited.entries.get_mut(&index(6)).unwrap());
        let found: Said<'_> = (&[Code::NotIncluded, Code::SignatureInvalid], &[]);
        let differ: Said<'_> = (&[Code::CopiesDiffer], &[]);
        self.packs(Code::CopiesDiffer.code(), [whole(), edited.write().unwrap()], [FINE, found], differ);

        // One log holds two ends of the run, as one that does not refuse the second would.
        let (mine, theirs) = two_ends(&scenario, &sealed);
        let packs = [mine.write().unwrap(), theirs.write().unwrap()];
        self.packs(Code::ChainFork.code(), packs, [FINE, FINE], (&[Code::ChainFork], &[]));

        let without = Pack { bundles: BTreeMap::new(), ..pack.clone() };
        let packs = [whole(), without.write().unwrap()];
        let missing: Said<'_> = (&[], &[Gap::BundleMissing]);
        self.packs(Gap::OnlyInOne.code(), packs, [FINE, missing], (&[], &[Gap::OnlyInOne]));

        // The same again, once the log has grown.
        let mut grown = sealed.clone();
        grown.entries.push(b"another entry".to_vec());
        let packs = [whole(), grown.pack(&scenario).write().unwrap()];
        self.packs(Gap::HeadsUncompared.code(), packs, [FINE, FINE], (&[], &[Gap::HeadsUncompared]));

        let cut = whole()[..1000].to_vec();
        let malformed: Said<'_> = (&[Code::PackMalformed], &[]);
        self.packs(Gap::NotReached.code(), [whole(), cut], [FINE, malformed], (&[], &[Gap::NotReached]));
    }

    /// Two mirrors of one log.
    fn copies_of_logs(&mut self) {
        let sealed = tiny().seal();
        let write = |sealed: &Sealed| {
            let dir = TempDir::new().unwrap();
            tiles::write(sealed, dir.path());
            dir
        };
        let honest = write(&sealed);
        let mut fork = sealed.clone();
        fork.entries[1] = b"another history".to_vec();
        self.mirrors(
            Code::HeadsInconsistent.code(),
            [&honest, &write(&fork)],
            (&[Code::HeadsInconsistent], &[]),
        );

        // Tiles of another tree than the one that was signed.
        let damaged = write(&sealed);
        tiles::write_hashes(&fork.leaves(), damaged.path());
        self.mirrors(Code::TileDiffers.code(), [&honest, &damaged], (&[Code::TileDiffers], &[]));

        let mut early = sealed.clone();
        early.entries.truncate(5);
        self.mirrors(Gap::OnlyInOne.code(), [&honest, &write(&early)], (&[], &[Gap::OnlyInOne]));
    }

    fn packs(&mut self, code: &'static str, packs: [Vec<u8>; 2], sides: [Said<'_>; 2], said: Said<'_>) {
        let paths = ["a", "b"].map(|name| format!("{code}/{name}.sift"));
        for (path, pack) in paths.iter().zip(&packs) {
            self.put(path, pack);
        }
        self.diff(code, paths, sides, said);
    }

    fn mirrors(&mut self, code: &'static str, mirrors: [&TempDir; 2], said: Said<'_>) {
        let paths = ["a", "b"].map(|name| format!("{code}/{name}"));
        for (path, mirror) in paths.iter().zip(mirrors) {
            self.put_all(path, Path::new(mirror.path()));
        }
        self.diff(code, paths, [FINE, FINE], said);
    }

    fn diff(&mut self, code: &'static str, [a, b]: [String; 2], sides: [Said<'_>; 2], said: Said<'_>) {
        let arguments = ["diff".to_owned(), "--trust".to_owned(), TRUST.to_owned(), a, b].to_vec();
        let side = |(findings, unchecked): Said<'_>| Side {
            findings: findings.to_vec(),
            unchecked: unchecked.to_vec(),
        };
        let (sides, Side { findings, unchecked }) = (sides.map(side).into(), side(said));
        self.cases.push(Case { code, arguments, findings, unchecked, sides });
    }
}

/// The run, and the same one with another close; both in one log.
fn two_ends(scenario: &Scenario, sealed: &Sealed) -> (Pack, Pack) {
    let mut other = scenario.clone();
    let close = &scenario.drafts[1];
    other.drafts[1] = Draft::new(close.body.clone(), common::millis(close.time.get() + 1));
    let (mut mine, second) = (sealed.clone(), other.seal());
    mine.entries.insert(5, second.entries[4].clone());
    let mut theirs = mine.clone();
    // The operator's three entries, the open, a close, and the operator's last.
    mine.in_pack = vec![0, 1, 2, 3, 4, 7];
    theirs.in_pack = vec![0, 1, 2, 3, 5, 7];
    (mine.pack(scenario), theirs.pack(&other))
}
