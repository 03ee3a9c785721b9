//! The thread that owns the model.
//!
//! For `shell`, which gives it batches and hears what became of them. The thread runs at a lower priority than the
//! threads that talk to peers and callers, so that a busy model does not make a node look dead.
//! Invariants: tokio never runs inference; every batch and canary given in is answered by exactly one [`ComputeEvent`],
//! also when the engine panics, unless the device hangs, and a measurement by one at most; no model is ready whose
//! canary is not right.
//! Not here: when to ask for a canary, and what follows from its answer or its silence (`shoal-core`).

mod golden;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use shoal_core::id::BatchId;
use shoal_engine::{Card, EmbedOptions, Embedding, Engine, EngineError, InputText, RowError};

use golden::{CANARY_TEXT, Golden};

/// Lower than the listeners, higher than idle work.
const PRIORITY_NICE: i32 = 5;
/// Rows of the last inference of the warm-up.
const WARM_UP_ROWS: usize = 8;
/// Where one row takes longer, that one is left out: nobody should wait seconds for it.
const WARM_UP_ROW_MAX: Duration = Duration::from_millis(500);

/// One text of a batch.
#[derive(Clone, Debug)]
pub struct Row {
    /// All texts of its job.
    pub texts: Arc<[Box<str>]>,
    /// Which of them.
    pub index: usize,
    /// What is wanted.
    pub options: EmbedOptions,
}

/// What the thread says.
#[derive(Debug)]
pub enum ComputeEvent {
    /// The model is loaded and its first inference worked.
    Ready {
        card: Card,
        units: u64,
        took: Duration,
        /// The same of a batch of several rows; `None` where one row takes so long that this was left out.
        several: Option<(u64, Duration)>,
    },
    /// The model could not be loaded. The thread is gone.
    LoadFailed { message: String },
    /// The inference that was asked for by [`Compute::measure`] worked.
    Measured { units: u64, took: Duration },
    /// The canary that was asked for by [`Compute::canary`] ran: it was right, or this is what was wrong.
    Canary { fault: Option<String> },
    /// A batch ran.
    Ran { batch: BatchId, took: Duration, rows: Vec<Result<Embedding, RowError>> },
    /// A batch did not run.
    Failed { batch: BatchId, message: String },
}

/// The way to the thread.
#[derive(Debug)]
pub struct Compute {
    work: mpsc::Sender<Work>,
}

/// What the thread is asked for.
#[derive(Debug)]
enum Work {
    Batch(BatchId, Vec<Row>),
    Measure,
    Canary,
}

/// A thread that was not started yet: whoever hears it must have the way to it before it says a word.
#[derive(Debug)]
pub struct Device {
    inbox: mpsc::Receiver<Work>,
}

impl Device {
    /// Starts the thread. It loads the engine by `load` and says everything through `tell`. What the canary's answer
    /// has to be is kept in the directory `golden`, where there is one.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        self,
        load: impl FnOnce() -> Result<Box<dyn Engine>, EngineError> + Send + 'static,
        golden: Option<PathBuf>,
        tell: impl Fn(ComputeEvent) + Send + 'static,
    ) -> std::io::Result<()> {
        let thread = std::thread::Builder::new().name("shoal-device".to_owned());
        thread.spawn(move || own_device(load, golden.as_deref(), &self.inbox, &tell)).map(drop)
    }
}

impl Compute {
    /// Both ends.
    #[must_use]
    pub fn new() -> (Self, Device) {
        // Unbounded in type only: the machine gives a batch only after the one before was answered.
        let (work, inbox) = mpsc::channel();
        (Self { work }, Device { inbox })
    }

    /// Gives a batch to the device.
    pub fn run(&self, batch: BatchId, rows: Vec<Row>) {
        // The thread ends only when loading failed, and then no batch is ever given.
        let _ = self.work.send(Work::Batch(batch, rows));
    }

    /// Asks for one small inference; [`ComputeEvent::Measured`] tells how long it took, nothing that it failed.
    pub fn measure(&self) {
        let _ = self.work.send(Work::Measure);
    }

    /// Asks for the canary; [`ComputeEvent::Canary`] tells whether it was right. It runs as soon as the device is free:
    /// the machine gives the next batch only after the one before was answered, so none is ever in front of it.
    pub fn canary(&self) {
        let _ = self.work.send(Work::Canary);
    }
}

fn own_device(
    load: impl FnOnce() -> Result<Box<dyn Engine>, EngineError>,
    golden: Option<&Path>,
    inbox: &mpsc::Receiver<Work>,
    tell: &impl Fn(ComputeEvent),
) {
    // Where this is not allowed the node still works; it is only less lively under load.
    let _ = rustix::process::setpriority_process(Some(own_thread()), PRIORITY_NICE);
    let load = || load().map_err(|fault| fault.to_string()).and_then(|engine| warm_up(engine, golden));
    let (mut engine, golden) = match guarded(load) {
        Ok(Warm { engine, golden, fastest: took, several }) => {
            let card = engine.card().clone();
            let units = canary_units(&card);
            let several = several.map(|took| (units * WARM_UP_ROWS as u64, took));
            tell(ComputeEvent::Ready { card, units, took, several });
            (engine, golden)
        }
        Err(message) => return tell(ComputeEvent::LoadFailed { message }),
    };
    while let Ok(work) = inbox.recv() {
        let (batch, rows) = match work {
            Work::Batch(batch, rows) => (batch, rows),
            Work::Measure => {
                // A failure says nothing of speed; the next batch will show whether the engine works.
                if let Ok((_, took)) = guarded(|| infer_once(engine.as_mut())) {
                    tell(ComputeEvent::Measured { units: canary_units(engine.card()), took });
                }
                continue;
            }
            Work::Canary => {
                let told = guarded(|| {
                    let (values, _) = infer_once(engine.as_mut())?;
                    golden.check(&values).map_err(|fault| fault.to_string())
                });
                tell(ComputeEvent::Canary { fault: told.err() });
                continue;
            }
        };
        let inputs: Vec<InputText<'_>> =
            rows.iter().map(|row| InputText { text: &row.texts[row.index], options: row.options }).collect();
        let start = Instant::now();
        let result = guarded(|| engine.run(&inputs).map_err(|fault| fault.to_string()));
        let took = start.elapsed();
        match result {
            Ok(rows) if rows.len() == inputs.len() => tell(ComputeEvent::Ran { batch, took, rows }),
            Ok(rows) => {
                let message = format!("the engine gave {} rows for {}", rows.len(), inputs.len());
                tell(ComputeEvent::Failed { batch, message });
            }
            Err(message) => tell(ComputeEvent::Failed { batch, message }),
        }
    }
}

fn own_thread() -> rustix::process::Pid {
    // On Linux a thread is a process to the scheduler, so this changes the priority of this thread alone.
    rustix::thread::gettid()
}

fn canary_units(card: &Card) -> u64 {
    u64::from(card.cost.units(CANARY_TEXT))
}

/// The first inference also pays for pages and threads; of the next three the fastest counts, because what slows one
/// down, such as other nodes that start beside this one, is not the device. All of them are canaries.
///
/// The last one is a batch of several rows, so that the node knows from the start what a larger batch costs: on a
/// device that takes long whatever the size, as GPUs do, callers would else be refused until it has learned that.
fn warm_up(mut engine: Box<dyn Engine>, golden: Option<&Path>) -> Result<Warm, String> {
    let first_failed = |fault: &dyn std::fmt::Display| format!("the first inference failed: {fault}");
    let (values, _) = infer_once(engine.as_mut()).map_err(|fault| first_failed(&fault))?;
    let mut fastest = Duration::MAX;
    for _ in 0..3 {
        let (again, took) = infer_once(engine.as_mut()).map_err(|fault| first_failed(&fault))?;
        golden::agree(engine.card().precision, &values, &again).map_err(|fault| first_failed(&fault))?;
        fastest = fastest.min(took);
    }
    let golden = Golden::settle(golden, engine.card(), values).map_err(|fault| first_failed(&fault))?;
    let mut several = None;
    if fastest <= WARM_UP_ROW_MAX {
        let input = InputText { text: CANARY_TEXT, options: EmbedOptions::default() };
        let start = Instant::now();
        let rows = engine.run(&[input; WARM_UP_ROWS]).map_err(|fault| first_failed(&fault))?;
        several = Some(start.elapsed());
        if let Some(fault) = rows.iter().find_map(|row| row.as_ref().err()) {
            return Err(first_failed(fault));
        }
    }
    Ok(Warm { engine, golden, fastest, several })
}

/// An engine whose first inferences worked.
struct Warm {
    engine: Box<dyn Engine>,
    golden: Golden,
    /// Of one row.
    fastest: Duration,
    /// Of [`WARM_UP_ROWS`] rows.
    several: Option<Duration>,
}

/// The canary's vector, and how long it took.
fn infer_once(engine: &mut dyn Engine) -> Result<(Vec<f32>, Duration), String> {
    let input = InputText { text: CANARY_TEXT, options: EmbedOptions::default() };
    let start = Instant::now();
    let rows = engine.run(&[input]).map_err(|fault| fault.to_string())?;
    let took = start.elapsed();
    let count = rows.len();
    match rows.into_iter().next() {
        Some(Ok(embedding)) if count == 1 => Ok((embedding.values, took)),
        Some(Err(fault)) if count == 1 => Err(fault.to_string()),
        _ => Err(format!("the engine gave {count} rows for one")),
    }
}

/// Turns a panic of the engine into an error: one poisoned text must not end the thread that all callers need.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(format!("the engine panicked: {}", text.unwrap_or_else(|| "no message".to_owned())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_engine::synthetic::{Synthetic, SyntheticSpec};

    /// Panics on the text "poison", otherwise answers as the stand-in does.
    #[derive(Debug)]
    struct Fragile(Synthetic);

    impl Engine for Fragile {
        fn card(&self) -> &Card {
            self.0.card()
        }

        fn run(&mut self, batch: &[InputText<'_>]) -> Result<Vec<Result<Embedding, RowError>>, EngineError> {
            assert!(batch.iter().all(|input| input.text != "poison"), "poisoned");
            self.0.run(batch)
        }
    }

    fn row(text: &str) -> Row {
        Row { texts: Arc::from([Box::from(text)]), index: 0, options: EmbedOptions::default() }
    }

    fn start(load: impl FnOnce() -> Result<Box<dyn Engine>, EngineError> + Send + 'static) -> Told {
        start_with(load, None)
    }

    fn start_with(
        load: impl FnOnce() -> Result<Box<dyn Engine>, EngineError> + Send + 'static,
        golden: Option<&Path>,
    ) -> Told {
        let (tell, told) = mpsc::channel();
        let (compute, device) = Compute::new();
        device.start(load, golden.map(Path::to_owned), move |event| drop(tell.send(event))).unwrap();
        Told { compute, told }
    }

    /// A stand-in that does what the file says.
    fn controlled(control: &Path) -> impl FnOnce() -> Result<Box<dyn Engine>, EngineError> + Send + 'static {
        let control = Some(control.to_owned());
        move || Ok(Box::new(Synthetic::new(SyntheticSpec::default(), "t", control, 1)))
    }

    struct Told {
        compute: Compute,
        told: mpsc::Receiver<ComputeEvent>,
    }

    impl Told {
        fn next(&self) -> ComputeEvent {
            self.told.recv_timeout(Duration::from_secs(20)).expect("the thread answers")
        }
    }

    #[test]
    fn a_panic_fails_its_batch_and_the_next_batch_runs() {
        let told = start(|| Ok(Box::new(Fragile(Synthetic::new(SyntheticSpec::default(), "test", None, 1)))));
        assert!(matches!(told.next(), ComputeEvent::Ready { .. }));
        told.compute.run(BatchId(1), vec![row("good"), row("poison")]);
        assert!(
            matches!(told.next(), ComputeEvent::Failed { batch: BatchId(1), message } if message.contains("poisoned"))
        );
        told.compute.run(BatchId(2), vec![row("good")]);
        assert!(matches!(told.next(), ComputeEvent::Ran { batch: BatchId(2), rows, .. } if rows[0].is_ok()));
        told.compute.measure();
        assert!(matches!(told.next(), ComputeEvent::Measured { units: 1, .. }));
    }

    #[test]
    fn a_model_that_does_not_load_or_whose_first_inference_fails_is_told_as_such() {
        let fault = || EngineError::Compute("no such file".to_owned());
        let told = start(move || Err(fault()));
        assert!(matches!(told.next(), ComputeEvent::LoadFailed { message } if message.contains("no such file")));
        let dir = tempfile::tempdir().unwrap();
        let control = dir.path().join("control");
        std::fs::write(&control, "nan").unwrap();
        let told = start(controlled(&control));
        assert!(matches!(told.next(), ComputeEvent::LoadFailed { message } if message.contains("first inference")));
    }

    #[test]
    fn the_canary_runs_behind_the_batch_that_runs_and_says_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let control = dir.path().join("control");
        let set = |words: &str| {
            let beside = dir.path().join("control.new");
            std::fs::write(&beside, words).and_then(|()| std::fs::rename(&beside, &control)).unwrap();
        };
        let told = start_with(controlled(&control), Some(dir.path()));
        assert!(matches!(told.next(), ComputeEvent::Ready { .. }));
        set("hang");
        told.compute.run(BatchId(1), vec![row("good")]);
        told.compute.canary();
        set("");
        assert!(matches!(told.next(), ComputeEvent::Ran { batch: BatchId(1), .. }));
        assert!(matches!(told.next(), ComputeEvent::Canary { fault: None }));
        for (words, expected) in [
            ("nan", "not a finite number"),
            ("fail", "says `fail`"),
            ("wrong", "remove the file"),
            ("poison=first", ""),
        ] {
            set(words);
            told.compute.canary();
            let ComputeEvent::Canary { fault } = told.next() else { panic!("{words}: another event") };
            assert!(fault.as_ref().is_some_and(|fault| fault.contains(expected)), "{words}: {fault:?}");
        }
        set("");
        told.compute.canary();
        assert!(matches!(told.next(), ComputeEvent::Canary { fault: None }));
    }

    #[test]
    fn a_model_that_answers_otherwise_than_at_its_last_load_is_not_ready() {
        let dir = tempfile::tempdir().unwrap();
        let (control, golden) = (dir.path().join("control"), dir.path().join("canary"));
        let load = || start_with(controlled(&control), Some(&golden)).next();
        assert!(matches!(load(), ComputeEvent::Ready { .. }));
        std::fs::write(&control, "wrong").unwrap();
        let ComputeEvent::LoadFailed { message } = load() else { panic!("it is ready") };
        assert!(message.contains("remove the file") && message.contains("canary"), "{message}");
        std::fs::write(&control, "").unwrap();
        assert!(matches!(load(), ComputeEvent::Ready { .. }), "what was kept is still there");
    }
}
