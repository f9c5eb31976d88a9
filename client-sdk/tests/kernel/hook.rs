//! A front end of one's own for approvals.

use std::sync::{Arc, Mutex};

use sift_client::approval::{ANSWER_SUFFIX, APPROVALS_DIR, Request};
use sift_client::{
    Answered, ApprovalHook, Ask, CloseReason, Hook, Payload, Report, Verdict, WaitError, write_whole,
};
use sift_spec::record::{Answer, HoldProgress};

use crate::harness::{House, boss, eventually, key, open_run, tool};

/// Keeps what it is asked.
#[derive(Default)]
struct Screen(Mutex<Vec<Ask>>);

impl ApprovalHook for Screen {
    fn asked(&self, ask: Ask) -> Result<(), String> {
        self.0.lock().unwrap().push(ask);
        Ok(())
    }
}

#[tokio::test]
async fn a_hook_answers_beside_the_folder() {
    let mut house = House::new("").await;
    let screen = Arc::new(Screen::default());
    house.config.hook = Some(Hook(Arc::clone(&screen) as Arc<dyn ApprovalHook>));
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let Verdict::Held(held) = run.propose(tool("pay", "{}")).await.unwrap() else { panic!() };
    let waiting = tokio::spawn(held.wait());
    eventually("asked", || !screen.0.lock().unwrap().is_empty()).await;
    let ask = screen.0.lock().unwrap().remove(0);
    // It has no authority: what nobody entitled signed does not count.
    for note in ["yes".to_owned(), ask.request().sign(Answer::Approve, &key("mallory", 9)).unwrap()] {
        assert!(matches!(ask.answer(&note).await, Err(WaitError::Statement(_))));
    }
    let note = ask.request().sign(Answer::Approve, &boss()).unwrap();
    assert_eq!(ask.answer(&note).await.unwrap(), HoldProgress::Released);
    let Answered::Permitted(permit) = waiting.await.unwrap().unwrap() else { panic!() };
    // Once.
    assert!(matches!(ask.answer(&note).await, Err(WaitError::Statement(_))));
    permit.dispatch(|| async { Report::ok(Payload::text("paid")) }).await.unwrap();
    run.close(CloseReason::Done).await.unwrap();
}

/// Fails in every way.
struct Broken;

impl ApprovalHook for Broken {
    fn asked(&self, ask: Ask) -> Result<(), String> {
        if ask.request().intent.get() == 1 {
            Err("the pager is off".to_owned())
        } else {
            panic!("the pager burns")
        }
    }
}

#[tokio::test]
async fn a_hook_that_fails_loses_no_request() {
    let mut house = House::new("").await;
    house.config.hook = Some(Hook(Arc::new(Broken)));
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    for _ in 0..2 {
        let Verdict::Held(held) = run.propose(tool("pay", "{}")).await.unwrap() else { panic!() };
        let path = house.dir.path().join(APPROVALS_DIR).join(format!("{}.request", held.request().stem()));
        let asked = Request::parse(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let answer = path.with_file_name(format!("{}{ANSWER_SUFFIX}", asked.stem()));
        let waiting = tokio::spawn(held.wait());
        write_whole(&answer, asked.sign(Answer::Approve, &boss()).unwrap().as_bytes()).unwrap();
        let Answered::Permitted(permit) = waiting.await.unwrap().unwrap() else { panic!() };
        permit.dispatch(|| async { Report::ok(Payload::text("paid")) }).await.unwrap();
    }
    run.close(CloseReason::Done).await.unwrap();
}
