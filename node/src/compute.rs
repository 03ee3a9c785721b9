//! The thread that owns the model.
//!
//! For `shell`, which gives it batches and hears what became of them. The thread runs at a lower priority than the
//! threads that talk to peers and callers, so that a busy model does not make a node look dead.
//! Invariants: tokio never runs inference; every batch given in is answered by exactly one [`ComputeEvent`], also when
//! the engine panics.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use shoal_core::id::BatchId;
use shoal_engine::{Card, EmbedOptions, Embedding, Engine, EngineError, InputText, RowError};

/// Lower than the listeners, higher than idle work.
const PRIORITY_NICE: i32 = 5;
/// The text of the first inference: about the length of a short question.
const WARM_UP_TEXT: &str = "The first inference loads every weight once and shows how fast this device is.";

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
    Ready { card: Card, units: u64, took: Duration },
    /// The model could not be loaded. The thread is gone.
    LoadFailed { message: String },
    /// The inference that was asked for by [`Compute::measure`] worked.
    Measured { units: u64, took: Duration },
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
}

/// A thread that was not started yet: whoever hears it must have the way to it before it says a word.
#[derive(Debug)]
pub struct Device {
    inbox: mpsc::Receiver<Work>,
}

impl Device {
    /// Starts the thread. It loads the engine by `load` and says everything through `tell`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        self,
        load: impl FnOnce() -> Result<Box<dyn Engine>, EngineError> + Send + 'static,
        tell: impl Fn(ComputeEvent) + Send + 'static,
    ) -> std::io::Result<()> {
        let thread = std::thread::Builder::new().name("shoal-device".to_owned());
        thread.spawn(move || own_device(load, &self.inbox, &tell)).map(drop)
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

    /// Asks for one small inference; [`ComputeEvent::Measured`] tells how long it took.
    pub fn measure(&self) {
        let _ = self.work.send(Work::Measure);
    }
}

fn own_device(
    load: impl FnOnce() -> Result<Box<dyn Engine>, EngineError>,
    inbox: &mpsc::Receiver<Work>,
    tell: &impl Fn(ComputeEvent),
) {
    // Where this is not allowed the node still works; it is only less lively under load.
    let _ = rustix::process::setpriority_process(Some(own_thread()), PRIORITY_NICE);
    let mut engine = match guarded(|| load().map_err(|fault| fault.to_string()).and_then(warm_up)) {
        Ok((engine, took)) => {
            let card = engine.card().clone();
            let units = warm_up_units(&card);
            tell(ComputeEvent::Ready { card, units, took });
            engine
        }
        Err(message) => return tell(ComputeEvent::LoadFailed { message }),
    };
    while let Ok(work) = inbox.recv() {
        let (batch, rows) = match work {
            Work::Batch(batch, rows) => (batch, rows),
            Work::Measure => {
                // A failure says nothing of speed; the next batch will show whether the engine works.
                if let Ok(took) = guarded(|| infer_once(engine.as_mut())) {
                    tell(ComputeEvent::Measured { units: warm_up_units(engine.card()), took });
                }
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

fn warm_up_units(card: &Card) -> u64 {
    u64::from(card.cost.units(WARM_UP_TEXT))
}

/// The first inference also pays for pages and threads; of the next three the fastest counts, because what slows one
/// down, such as other nodes that start beside this one, is not the device.
fn warm_up(mut engine: Box<dyn Engine>) -> Result<(Box<dyn Engine>, Duration), String> {
    infer_once(engine.as_mut())?;
    let mut took = Duration::MAX;
    for _ in 0..3 {
        took = took.min(infer_once(engine.as_mut())?);
    }
    Ok((engine, took))
}

fn infer_once(engine: &mut dyn Engine) -> Result<Duration, String> {
    let input = InputText { text: WARM_UP_TEXT, options: EmbedOptions::default() };
    let start = Instant::now();
    let rows = engine.run(&[input]).map_err(|fault| format!("the first inference failed: {fault}"))?;
    let took = start.elapsed();
    match rows.as_slice() {
        [Ok(_)] => Ok(took),
        [Err(fault)] => Err(format!("the first inference failed: {fault}")),
        _ => Err(format!("the first inference gave {} rows for one", rows.len())),
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
        let (tell, told) = mpsc::channel();
        let (compute, device) = Compute::new();
        device.start(load, move |event| drop(tell.send(event))).unwrap();
        Told { compute, told }
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
        let load =
            move || Ok(Box::new(Synthetic::new(SyntheticSpec::default(), "t", Some(control), 1)) as Box<dyn Engine>);
        let told = start(load);
        assert!(matches!(told.next(), ComputeEvent::LoadFailed { message } if message.contains("first inference")));
    }
}
