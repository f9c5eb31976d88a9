//! Programs that others wrote, unchanged, on our log. Each is installed by its own package manager, at a fixed
//! version; where that is missing, the test says so and does nothing.

use std::process::Command;

use sift_tests::TestLog;

/// Tessera's checker for any log that serves C2SP tlog-tiles.
const FSCK: &str = "github.com/transparency-dev/tessera/cmd/fsck@v1.0.4";

#[tokio::test(flavor = "multi_thread")]
async fn tesseras_fsck_accepts_our_tiles() {
    if Command::new("go").arg("version").output().is_err() {
        println!("skipped: there is no Go to install {FSCK} with");
        return;
    }
    let bin = std::env::temp_dir().join("sift-tests-go");
    let installed = Command::new("go").args(["install", FSCK]).env("GOBIN", &bin).output().unwrap();
    assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
    let log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    let key = log.dir().join("log.vkey");
    std::fs::write(&key, log.key().to_string()).unwrap();
    // Sizes within the first tile, at its edge, and with three levels of partial tiles' worth of entries.
    for calls in [0_u64, 50, 74, 1, 500, 400] {
        log.http.add_all(&writer.entries(&writer.run(calls))).await.unwrap();
        let (url, key) = (format!("{}/", log.http.url()), key.display().to_string());
        let checked = tokio::task::spawn_blocking({
            let fsck = bin.join("fsck");
            move || {
                let (url, key) = (format!("--storage_url={url}"), format!("--public_key={key}"));
                Command::new(fsck).args([&url, &key, "--ui=false", "-N=4"]).output().unwrap()
            }
        });
        let checked = checked.await.unwrap();
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(checked.status.success() && said.contains("Successfully fsck'd log"), "{said}");
    }
    // And it does find what is wrong: another key.
    std::fs::write(&key, sift_tests::new_key("test.sift.example/log").verifier().to_string()).unwrap();
    let refused = Command::new(bin.join("fsck"))
        .args([
            &format!("--storage_url={}/", log.http.url()),
            &format!("--public_key={}", key.display()),
            "--ui=false",
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!said.contains("Successfully"), "a checker that accepts everything proves nothing: {said}");
}
