//! Answers that are typed on a terminal.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::approvals_program::{Office, Waits};

/// Whether `script` of util-linux is here to make a terminal.
fn has_terminals() -> bool {
    let version = Command::new("script").arg("--version").output();
    let has = version.is_ok_and(|version| String::from_utf8_lossy(&version.stdout).contains("util-linux"));
    if !has {
        println!("skipped: script of util-linux is needed to make a terminal");
    }
    has
}

/// Runs `sift-kernel approvals` on a terminal, types when it asks, and gives exit code and screen.
fn on_terminal(dir: &Path, args: &str, typed: &str) -> (Option<i32>, String) {
    let line = format!("'{}' approvals --dir kernel {args}", env!("CARGO_BIN_EXE_sift-kernel"));
    let mut child = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .current_dir(dir)
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (mut screen, mut buffer, mut asked) = (Vec::new(), [0; 4096], false);
    loop {
        let read = output.read(&mut buffer).unwrap();
        if read == 0 {
            break;
        }
        screen.extend_from_slice(&buffer[..read]);
        if !asked && String::from_utf8_lossy(&screen).contains("digits of its digest: ") {
            asked = true;
            input.write_all(typed.as_bytes()).unwrap();
        }
    }
    (child.wait().unwrap().code(), String::from_utf8(screen).unwrap())
}

fn digits(office: &Office, waits: &Waits) -> String {
    let shown = String::from_utf8(office.approvals(&["show", &waits.name]).stdout).unwrap();
    shown.split("\ndigest    ").nth(1).unwrap()[..6].to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approver_types_the_digits_of_what_was_shown() {
    if !has_terminals() {
        return;
    }
    let mut office = Office::new().await;
    let dir = office.desk.path(".");
    let waits = office.hold("pay", "{\"to\":\"\u{1b}[2K\u{202e}\"}");
    let right = digits(&office, &waits);
    let approve = format!("approve {} --key boss.key", waits.name);
    let other = if right == "000000" { "000001" } else { "000000" };
    let (long, short) = (format!("{right}0"), &right[..5]);
    for wrong in [other, "", "y", "yes", short, long.as_str()] {
        let (code, screen) = on_terminal(&dir, &approve, &format!("{wrong}\n"));
        assert_eq!(code, Some(1), "{wrong}: {screen}");
        assert!(screen.contains("nothing was signed"), "{screen}");
    }
    // The end of input is no answer either.
    let (code, screen) = on_terminal(&dir, &approve, "\u{4}");
    assert_eq!(code, Some(1), "{screen}");
    assert!(!office.files().iter().any(|name| name.ends_with(".answer")));
    let (code, screen) = on_terminal(&dir, &approve, &format!("{right}\n"));
    assert_eq!(code, Some(0), "{screen}");
    assert!(
        screen.contains("| {\"to\":\"⟦U+001B⟧[2K⟦U+202E⟧\"}") && !screen.contains("\u{1b}[2K"),
        "{screen}"
    );
    assert!(
        screen.contains("To approve exactly this call") && screen.contains("Approval signed by boss"),
        "{screen}"
    );
    office.await_answers(&waits);
    assert_eq!(office.client.read()["is"], "permitted");

    let waits = office.hold("pay", "{\"id\": 2}");
    let refuse = format!("refuse {} --key boss.key", waits.name);
    let (code, screen) = on_terminal(&dir, &refuse, &format!("{}\n", digits(&office, &waits)));
    assert_eq!(code, Some(0), "{screen}");
    assert!(
        screen.contains("To refuse exactly this call") && screen.contains("Refusal signed by boss"),
        "{screen}"
    );
    office.await_answers(&waits);
    assert_eq!(office.client.read()["is"], "denied");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_in_the_folder_reaches_a_terminal_as_it_is() {
    if !has_terminals() {
        return;
    }
    let mut office = Office::new().await;
    let waits = office.hold("pay", "{}");
    let folder = office.desk.path("kernel/approvals");
    let genuine = std::fs::read_to_string(folder.join(format!("{}.request", waits.name))).unwrap();
    let evil = genuine.replacen("\"agent\"", "\"\\u001b]0;x\\u0007\\u202e\"", 1);
    std::fs::write(folder.join("a\u{1b}[2K\u{202e}.request"), evil).unwrap();
    let (code, screen) = on_terminal(&office.desk.path("."), "list", "");
    assert_eq!(code, Some(0), "{screen}");
    assert!(screen.contains("use tool pay") && screen.contains("passed over"), "{screen}");
    assert!(!screen.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{screen:?}");
}
