//! `sift-verify`: reads the command line and files, calls the library, prints the report, sets the exit code.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, Parser as _};
use sift_connect::Connect;
use sift_spec::proof::{PROOF_HASHES_MAX, Proof};
use sift_spec::trust::TrustPolicy;
use sift_spec::types::Hash;
use sift_verify::args::{Check, Cli, Common, Teach, Verb, Watch};
use sift_verify::consistency::{self, Basis};
use sift_verify::diff::{self, Diff};
use sift_verify::exit::Exit;
use sift_verify::progress::Bar;
use sift_verify::source::Source;
use sift_verify::{
    CannotCheck, Report, explain, files, follow, log, page, proof, replay, run, schema, source, text,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let exit = match Cli::parse().verb {
        Verb::Teach(verb) => teach(&verb),
        Verb::Watch(verb) => watch(verb).unwrap_or_else(|error| complain(&error)),
        Verb::Check(verb) => match files::read_trust(&verb.common().trust) {
            Ok(trust) => verify(&verb, &trust),
            Err(error) => complain(&error),
        },
    };
    ExitCode::from(exit.code())
}

/// Follows a log, or makes what it takes to.
fn watch(verb: Watch) -> Result<Exit, CannotCheck> {
    let args = match verb {
        Watch::Follow(args) => *args,
        Watch::WitnessKey { name, out } => {
            let key = files::make_witness_key(&out, name)?;
            print(&format!(
                "Made {} (keep it secret). For trust files, with the address where it cosigns:\n  \
                 witness {} {key} https://HOST/\n",
                out.display(),
                key.name()
            ));
            return Ok(Exit::Verified);
        }
    };
    let trust = files::read_trust(&args.trust)?;
    let witness = args.witness_key.map(|path| files::read_key(&path)).transpose()?.zip(args.listen);
    let options = follow::Options {
        log: args.log,
        dir: args.dir,
        every: Duration::from_secs(args.every),
        stale: (args.stale > 0).then(|| Duration::from_secs(args.stale)),
        patience: Duration::from_secs(args.patience),
        feed: !args.no_feed,
        mirror: args.mirror,
        once: args.once,
        witness,
    };
    let teller = follow::Teller { json: args.json, quiet: args.quiet };
    follow::run(options, trust, &args.connect, teller)
}

/// What needs no evidence.
fn teach(verb: &Teach) -> Exit {
    match verb {
        Teach::Explain { json, code } => {
            let wanted = explain::all().filter(|one| code.as_deref().is_none_or(|code| code == one.code));
            print(&match json {
                true => wanted.filter_map(|one| Some(serde_json::to_string(&one).ok()? + "\n")).collect(),
                false => wanted.map(|one| text::render_explanation(&one)).collect::<Vec<_>>().join("\n"),
            });
            Exit::Verified
        }
        Teach::Schema => {
            print(&schema::schema());
            Exit::Verified
        }
        Teach::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), env!("CARGO_BIN_NAME"), &mut script);
            print(&String::from_utf8_lossy(&script));
            Exit::Verified
        }
        Teach::Man { dir } => {
            manual(dir.as_deref()).map_or_else(|error| complain(&error), |()| Exit::Verified)
        }
    }
}

fn manual(dir: Option<&Path>) -> Result<(), CannotCheck> {
    let failed =
        |source| CannotCheck::Write { path: dir.unwrap_or(Path::new("standard output")).to_owned(), source };
    if let Some(dir) = dir {
        let pages = std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(Cli::command(), dir));
        return pages.map_err(failed);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(failed)?;
    print(&String::from_utf8_lossy(&page));
    Ok(())
}

fn verify(verb: &Check, trust: &TrustPolicy) -> Exit {
    let common = verb.common();
    match verb {
        Check::Proof { entry, receipt, .. } => answer(common, verify_proof(entry, receipt, trust)),
        Check::Run { .. } | Check::Replay { .. } if trust.operator().is_none() => {
            complain(&CannotCheck::NoOperator { path: common.trust.clone() })
        }
        // The worst of several packs counts.
        Check::Run { packs, open, html, .. } => {
            let page = |pack: &Path| match html {
                Some(dir) if packs.len() > 1 || dir.is_dir() => {
                    Some(dir.join(pack.file_name()?).with_extension("html"))
                }
                file => file.clone(),
            };
            let exits = packs
                .iter()
                .map(|pack| answer(common, verify_run(pack, *open, page(pack), common.strict, trust)));
            exits.max().unwrap_or(Exit::CouldNotCheck)
        }
        Check::Replay { bundle, only_changes, fail_on_change, open, threads, packs, .. } => {
            let bundle = bundle.as_deref().map(files::read_bundle).transpose();
            let (bundle, packs) = match bundle.and_then(|bundle| Ok((bundle, files::packs(packs)?))) {
                Ok(read) => read,
                Err(error) => return complain(&error),
            };
            let options = replay::Options {
                run: run::Options { allow_open: *open },
                strict: common.strict,
                bundle: bundle.as_ref(),
                only_changes: *only_changes || common.quiet,
                threads: *threads,
                progress: &Bar::new(common.quiet, "packs"),
            };
            replay_packs(&packs, trust, &options, common, *fail_on_change)
        }
        Check::Log { checkpoint, threads, connect, log, .. } => {
            let options = Bar::new(common.quiet, "entries");
            let options = log::Options { threads: *threads, progress: &options };
            let log = source::open(log, connect);
            answer(common, log.and_then(|log| verify_log(&*log, checkpoint.as_deref(), &options, trust)))
        }
        Check::Diff { open, log, full, threads, connect, first, second, .. } => {
            let [of_first, of_second] =
                [first, second].map(|place| source::is_url(place) || Path::new(place).is_dir());
            let compared = match (of_first, of_second) {
                (false, false) if trust.operator().is_none() => {
                    Err(CannotCheck::NoOperator { path: common.trust.clone() })
                }
                (false, false) => {
                    let options = run::Options { allow_open: *open };
                    let log = log.as_ref().map(|log| source::open(log, connect)).transpose();
                    log.and_then(|log| diff_packs([first, second], log.as_deref(), trust, &options))
                }
                (true, true) => {
                    let bar = Bar::new(common.quiet, "entries");
                    let audit = full.then_some(log::Options { threads: *threads, progress: &bar });
                    diff_logs([first, second], connect, trust, audit.as_ref())
                }
                (of_first, _) => {
                    let (log, pack) = if of_first { (first, second) } else { (second, first) };
                    let there = files::read(Path::new(pack), files::PACK);
                    there.and(Err(CannotCheck::PackAndLog { pack: pack.clone(), log: log.clone() }))
                }
            };
            answer_diff(common, compared)
        }
        Check::Consistency { old, new, proof, connect, log, .. } => {
            let log = log.as_ref().map(|log| source::open(log, connect)).transpose();
            answer(
                common,
                log.and_then(|log| verify_consistency([old, new], proof.as_deref(), log.as_deref(), trust)),
            )
        }
    }
}

fn verify_proof(entry: &Path, receipt: &Path, trust: &TrustPolicy) -> Result<Report, CannotCheck> {
    let (entry_bytes, receipt) =
        (files::read_evidence(entry, files::ENTRY)?, files::read_evidence(receipt, files::RECEIPT)?);
    Ok(proof::verify(&entry_bytes, &receipt, trust).about(files::name(entry)))
}

fn verify_run(
    pack: &Path,
    allow_open: bool,
    page: Option<PathBuf>,
    strict: bool,
    trust: &TrustPolicy,
) -> Result<Report, CannotCheck> {
    let bytes = files::read_evidence(pack, files::PACK)?;
    let report = run::verify(&bytes, trust, &run::Options { allow_open }).about(files::name(pack));
    if let Some(path) = page {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let made = folder.map_or(Ok(()), std::fs::create_dir_all);
        let page = page::render(&report.clone().judged(strict), &bytes);
        let written = made.and_then(|()| std::fs::write(&path, page));
        written.map_err(|source| CannotCheck::Write { path, source })?;
    }
    Ok(report)
}

fn replay_packs(
    packs: &[PathBuf],
    trust: &TrustPolicy,
    options: &replay::Options<'_>,
    common: &Common,
    fail_on_change: bool,
) -> Exit {
    let mut exit = Exit::Verified;
    let sums = replay::replay(packs, trust, options, |_, replayed| {
        let replayed = match replayed {
            Ok(replayed) => replayed,
            Err(error) => {
                exit = exit.max(complain(&error));
                return;
            }
        };
        exit = exit.max(Exit::from(&replayed.report));
        let rejected = matches!(replayed.again, replay::Again::Rejected);
        print(&match (common.json, common.quiet) {
            (true, _) => replay::lines_json(&replayed).unwrap_or_default(),
            (false, true) if !rejected => String::new(),
            (false, _) => replay::render(&replayed),
        });
    });
    print(&match (common.json, common.quiet) {
        (true, _) => replay::sums_json(&sums).unwrap_or_default(),
        (false, true) => String::new(),
        (false, false) => replay::render_sums(&sums),
    });
    let changed = fail_on_change && sums.changed() + sums.unknown > 0;
    exit.max(if changed { Exit::Rejected } else { Exit::Verified })
}

fn verify_log(
    log: &dyn Source,
    checkpoint: Option<&Path>,
    options: &log::Options<'_>,
    trust: &TrustPolicy,
) -> Result<Report, CannotCheck> {
    let checkpoint = checkpoint.map(|path| files::read_evidence(path, files::CHECKPOINT)).transpose()?;
    log::verify(log, checkpoint.as_deref(), trust, options)
}

fn verify_consistency(
    checkpoints: [&Path; 2],
    proof: Option<&Path>,
    log: Option<&dyn Source>,
    trust: &TrustPolicy,
) -> Result<Report, CannotCheck> {
    let [old, new] = checkpoints;
    let subject = format!("{} and {}", files::name(old), files::name(new));
    let (old, new) =
        (files::read_evidence(old, files::CHECKPOINT)?, files::read_evidence(new, files::CHECKPOINT)?);
    let proof = proof.map(read_consistency_proof).transpose()?;
    let basis = match (&proof, log) {
        (Some(proof), _) => Basis::Proof(proof),
        (None, Some(log)) => Basis::Log(log),
        (None, None) => Basis::None,
    };
    Ok(consistency::verify(&old, &new, basis, trust)?.about(subject))
}

fn diff_packs(
    packs: [&str; 2],
    log: Option<&dyn Source>,
    trust: &TrustPolicy,
    options: &run::Options,
) -> Result<Diff, CannotCheck> {
    let read = |pack| files::read_evidence(Path::new(pack), files::PACK);
    let [first, second] = packs;
    let (a, b) = (read(first)?, read(second)?);
    let [first, second] = [first, second].map(|pack| files::name(Path::new(pack)));
    diff::compare_packs([(&first, &a), (&second, &b)], log, trust, options)
}

fn diff_logs(
    logs: [&str; 2],
    connect: &Connect,
    trust: &TrustPolicy,
    audit: Option<&log::Options<'_>>,
) -> Result<Diff, CannotCheck> {
    let [first, second] = logs;
    let (a, b) = (source::open(first, connect)?, source::open(second, connect)?);
    diff::compare_logs([&*a, &*b], trust, audit)
}

/// The reports on both sides, then what comparing them gave.
fn answer_diff(common: &Common, compared: Result<Diff, CannotCheck>) -> Exit {
    let Diff { sides, report } = match compared {
        Ok(compared) => compared,
        Err(error) => return complain(&error),
    };
    let sides = sides.map(|side| {
        let side = side.judged(common.strict);
        print(&match (common.json, common.quiet) {
            (false, false) => text::render_brief(&side) + "\n",
            _ => rendered(common, &side),
        });
        Exit::from(&side)
    });
    sides.into_iter().fold(answer(common, Ok(report)), Exit::max)
}

fn read_consistency_proof(path: &Path) -> Result<Proof, CannotCheck> {
    let bytes = files::read(path, files::PROOF)?;
    let hashes = std::str::from_utf8(&bytes).ok().and_then(|text| {
        let lines = text.lines().filter(|line| !line.is_empty());
        lines.map(str::parse).collect::<Result<Vec<Hash>, _>>().ok()
    });
    let hashes = hashes.filter(|hashes| hashes.len() <= PROOF_HASHES_MAX);
    hashes.map(Proof).ok_or_else(|| CannotCheck::ProofFile(path.to_owned()))
}

fn answer(common: &Common, report: Result<Report, CannotCheck>) -> Exit {
    match report {
        Ok(report) => {
            let report = report.judged(common.strict);
            print(&rendered(common, &report));
            Exit::from(&report)
        }
        Err(error) => complain(&error),
    }
}

fn rendered(common: &Common, report: &Report) -> String {
    match (common.json, common.quiet) {
        (true, _) => report.to_json().map(|json| json + "\n").unwrap_or_default(),
        (false, true) => text::render_findings(report),
        (false, false) => text::render(report),
    }
}

fn print(text: &str) {
    // Who closes the pipe early still gets the exit code.
    let _ = anstream::stdout().write_all(text.as_bytes());
}

fn complain(error: &CannotCheck) -> Exit {
    let message = text::message(&format!("sift-verify: could not check: {error}"));
    let _ = anstream::stderr().write_all(message.as_bytes());
    Exit::from(error)
}
