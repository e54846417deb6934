//! Every order of what can happen to a guest, on a model of its hypervisor and its disk.

use super::*;

#[test]
fn a_hypervisor_is_asked_after_errors_and_now_and_then() {
    let begun = Instant::now();
    let at = |seconds| begun + Duration::from_secs(seconds);
    let mut questions = Questions::default();
    // One that was just taken over.
    assert!(questions.are_due(0, at(0)));
    assert!(!questions.are_due(0, at(1)));
    assert!(questions.are_due(1, at(2)));
    assert!(questions.are_due(1, at(6)));
    assert!(!questions.are_due(1, at(7)));
    assert!(questions.are_due(1, at(36)));
    // One that stands still is asked on.
    assert!(!questions.lets_go_on(true, at(36)));
    assert!(questions.are_due(1, at(40)));
    assert!(questions.lets_go_on(false, at(40)));
    assert!(!questions.lets_go_on(false, at(44)));
    assert!(questions.lets_go_on(false, at(45)));
}

#[test]
fn a_stall_that_another_service_told_of_is_over_when_all_content_has_come() {
    let begun = Instant::now();
    let mut standstill = Standstill::default();
    let told = Stall {
        since: begun,
        cause: StallCause::Content(WaitCause::Unavailable),
        reason: "a reason".into(),
    };
    standstill.take_over(told, begun);
    let mut look = |is_whole, seconds| {
        let sight = Sight {
            is_whole,
            ..Sight::default()
        };
        let now = begun + Duration::from_secs(seconds);
        standstill.look(sight, Wanted::Paused, now)
    };
    // The guest, whose user has it paused, asks for nothing by which it would show.
    assert!(look(false, 1).is_none());
    assert!(look(false, 60).is_none());
    assert!(matches!(look(true, 61), Some(Change::Over(_))));
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// No content comes any more.
    Away,
    /// There is no room any more for what is written.
    Full,
    /// Content comes, and there is room.
    Mended,
    /// The user pauses the guest.
    Pause,
    /// The user lets it run.
    Resume,
    /// The service is killed, and the next one begins.
    Restart,
}

const STEPS: [Step; 6] = [
    Step::Away,
    Step::Full,
    Step::Mended,
    Step::Pause,
    Step::Resume,
    Step::Restart,
];

/// What the hypervisor does with the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Machine {
    Runs,
    Paused,
    DiskFailed,
}

/// A guest that reads or writes all the time, looked at every second.
struct World {
    standstill: Standstill,
    now: Instant,
    wanted: Wanted,
    machine: Machine,
    fault: Option<Step>,
    /// The request that waits, since when.
    request: Option<Instant>,
    is_late: bool,
    failed: u64,
    error: Option<StallCause>,
    told: Vec<Change>,
    /// Whether the service of now has seen what its guest stands still for.
    has_seen: bool,
}

impl World {
    fn new() -> Self {
        Self {
            standstill: Standstill::default(),
            now: Instant::now(),
            wanted: Wanted::Running,
            machine: Machine::Runs,
            fault: None,
            request: None,
            is_late: false,
            failed: 0,
            error: None,
            told: Vec::new(),
            has_seen: true,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Away | Step::Full => self.fault = Some(step),
            Step::Mended => self.fault = None,
            Step::Pause => {
                self.wanted = Wanted::Paused;
                if self.machine == Machine::Runs {
                    self.machine = Machine::Paused;
                }
                // QEMU waits for it, which is for as long as it may take.
                if self.request.take().is_some() && self.fault == Some(Step::Away) {
                    self.now += STALLED_AFTER;
                    self.fails_late();
                }
            }
            Step::Resume => {
                self.wanted = Wanted::Running;
                self.machine = Machine::Runs;
                self.standstill.resumed(self.now);
            }
            Step::Restart => {
                // The last that the events say is all that is left of it.
                let last = self.stall_told();
                self.standstill = Standstill::default();
                if let Some(stall) = last {
                    self.standstill.take_over(stall, self.now);
                }
                (self.is_late, self.failed, self.error) = (false, 0, None);
                self.request = self.request.map(|_| self.now);
                self.has_seen = false;
            }
        }
    }

    /// The stall that was told and whose end was not.
    fn stall_told(&self) -> Option<Stall> {
        match self.told.last() {
            Some(Change::Stalled(stall)) => Some(stall.clone()),
            Some(Change::GoesOn(_) | Change::Over(_)) | None => None,
        }
    }

    fn fails_late(&mut self) {
        self.is_late = true;
        self.fails();
    }

    fn fails(&mut self) {
        self.request = None;
        self.has_seen = true;
        self.failed += 1;
        if self.machine == Machine::Runs {
            self.machine = Machine::DiskFailed;
        }
    }

    /// What guest and disk do in a second.
    fn works(&mut self) {
        self.now += Duration::from_secs(1);
        if self.fault != Some(Step::Away) {
            // What was late has come.
            self.is_late = false;
            self.request = None;
        }
        if self.machine == Machine::Runs {
            match self.fault {
                None => {}
                Some(Step::Full) => {
                    self.error = Some(StallCause::DiskFull);
                    self.fails();
                }
                Some(_) => {
                    let since = *self.request.get_or_insert(self.now);
                    if self.is_late || self.now - since >= STALLED_AFTER {
                        self.fails_late();
                    }
                }
            }
        }
    }

    fn sight(&self) -> Sight {
        let stall = |since, cause| Stall {
            since,
            cause,
            reason: "a reason".into(),
        };
        let content = StallCause::Content(WaitCause::Unavailable);
        Sight {
            is_late: self.is_late,
            waiting: self.request.map(|since| stall(since, content)),
            error: self.error.map(|cause| stall(self.now, cause)),
            has_room: self.fault != Some(Step::Full),
            is_whole: false,
        }
    }

    fn look(&mut self) {
        let (sight, now) = (self.sight(), self.now);
        if self.standstill.is_to_be_asked(self.failed, now) {
            let guest = match self.machine {
                Machine::DiskFailed => Guest::DiskFailed,
                Machine::Runs | Machine::Paused => Guest::Otherwise,
            };
            if self.standstill.said(guest, &sight, self.wanted, now) {
                assert_eq!(self.wanted, Wanted::Running, "its user has it paused");
                self.machine = Machine::Runs;
            }
        }
        if let Some(change) = self.standstill.look(sight, self.wanted, now) {
            self.is_true(&change);
            self.told.push(change);
        }
    }

    /// Fails where what is told is not so.
    fn is_true(&self, change: &Change) {
        match change {
            Change::GoesOn(_) => {
                assert_eq!(self.machine, Machine::Runs, "it does not go on");
                assert_eq!(self.fault, None, "it will stand still at once");
                assert_eq!(self.wanted, Wanted::Running);
                assert!(self.stall_told().is_some(), "of what?");
            }
            Change::Over(_) => {
                assert_eq!(self.wanted, Wanted::Paused, "it goes on");
                assert!(self.stall_told().is_some(), "of what?");
            }
            Change::Stalled(_) => {}
        }
    }

    /// Fails unless all is as it must be when there was time for it.
    fn is_settled(&self) {
        let stalled = self.standstill.stalls().now();
        assert_eq!(stalled.is_some(), self.stall_told().is_some());
        match (self.fault, self.wanted) {
            (None, Wanted::Running) => {
                assert_eq!(self.machine, Machine::Runs, "nobody lets it go on");
                assert_eq!(stalled, None);
            }
            (Some(fault), Wanted::Running) => {
                assert_ne!(self.machine, Machine::Paused);
                let cause = stalled.expect("a stall").cause;
                assert_eq!(cause == StallCause::DiskFull, fault == Step::Full);
            }
            (fault, Wanted::Paused) => {
                assert_ne!(self.machine, Machine::Runs, "its user has it paused");
                if fault.is_none() && self.has_seen {
                    assert_eq!(stalled, None, "it is over");
                }
            }
        }
    }
}

#[test]
fn in_every_order_it_goes_on_when_its_disk_can_answer_and_its_user_has_not_paused_it() {
    const LONG: usize = 5;
    let mut goes_on = 0;
    let mut over = 0;
    for number in 0..STEPS.len().pow(LONG as u32) {
        // In time to settle, and in less.
        for seconds in [2, 50] {
            let steps = (0..LONG as u32).map(|digit| STEPS[number / STEPS.len().pow(digit) % 6]);
            let steps: Vec<Step> = steps.collect();
            let mut world = World::new();
            let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                for step in &steps {
                    world.step(*step);
                    for _ in 0..seconds {
                        world.works();
                        world.look();
                    }
                    if seconds > 40 {
                        world.is_settled();
                    }
                }
                for _ in 0..50 {
                    world.works();
                    world.look();
                }
                world.is_settled();
            }));
            assert!(told.is_ok(), "{steps:?}, {seconds} s each");
            let count = |wanted: fn(&&Change) -> bool| world.told.iter().filter(wanted).count();
            goes_on += count(|change| matches!(change, Change::GoesOn(_)));
            over += count(|change| matches!(change, Change::Over(_)));
        }
    }
    assert!(goes_on > 1000 && over > 1000, "{goes_on}, {over}");
}
