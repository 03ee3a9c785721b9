//! A call and the result cache: what is known is given, and only what is missing is placed.
//!
//! Part of `shell`; `door` hands every call of a caller to this first.
//! Invariants: only the texts without a result go on, each different one once, and answers are joined in the caller's
//! order; a call never waits beyond its own deadline, whoever works for it; answers made here take room that is bounded
//! by `admission.bytes_max`, until they are written, and a call that finds none is placed as if there was no cache; a
//! call of many texts gives others their turn. A call that asks why it went where it went is placed for real.
//! Not here: what is kept and who obtains it (`cache`); messages to and from owners (`cache_leg`).

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use shoal_core::id::NodeId;
use shoal_engine::Embedding;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::cache_leg::{Leg, Question};
use super::{Loaded, Shell};
use crate::cache::{Cache, CacheKey, Era, Follow, KEPT_AT_ONCE_MAX, KeyMaker, Lead, Limits, Look, Options, Seat};
use crate::job::{Answer, Ending, Failure, FoundIn, Job};
use crate::telemetry::{CacheMetrics, CacheOutcome, CachePlace};
use crate::wire::{FoundRow, KEYS_MAX};

/// How long another call's work for a result is waited for at least, before this call does the same work beside it.
///
/// Whoever waits cannot see whether it waits for one text or for a call of thousands, which ends when its last text is
/// computed. To wait too briefly costs one text that is computed twice; too long, the caller all of that time.
const PATIENCE_MIN: Duration = Duration::from_millis(100);
/// What a text takes while it is looked for, its vector left out: its key, its place in a flight.
const TEXT_OVERHEAD_BYTES: usize = 512;
/// What a number of a vector takes in an answer: itself, and its text, as the public door writes it.
const VALUE_BYTES: usize = size_of::<f32>() + 12;
/// Texts that are hashed and looked for before other tasks of the thread get a turn: less than a millisecond of work,
/// unless they are long.
const TEXTS_PER_TURN: usize = 64;
const ROOM_UNIT_BYTES: usize = 1024;

/// The cache of this node, and its way to the others.
#[derive(Debug)]
pub(super) struct Results {
    pub(super) cache: Cache,
    pub(super) leg: Leg,
    /// Room for answers that are made here, until the last of their bytes is written, in units of [`ROOM_UNIT_BYTES`].
    room: Arc<Semaphore>,
}

impl Results {
    pub(super) fn new(limits: Limits, answers_bytes_max: u64, metrics: &CacheMetrics) -> Self {
        let room = usize::try_from(answers_bytes_max).unwrap_or(usize::MAX) / ROOM_UNIT_BYTES;
        let room = Arc::new(Semaphore::new(room.min(Semaphore::MAX_PERMITS)));
        Self { cache: Cache::new(limits, metrics), leg: Leg::default(), room }
    }

    fn take_room(&self, texts: usize, dimensions: u32) -> Option<OwnedSemaphorePermit> {
        let bytes = texts.saturating_mul(dimensions as usize * VALUE_BYTES + TEXT_OVERHEAD_BYTES);
        let units = u32::try_from(bytes.div_ceil(ROOM_UNIT_BYTES)).ok()?;
        Arc::clone(&self.room).try_acquire_many_owned(units).ok()
    }
}

impl Shell {
    /// Answers from the cache what it has, and places the rest.
    pub(super) async fn place_cached(&self, job: Job) -> Ending {
        // Without a model of its own a node does not know which results it may give.
        let (Some(results), Some(loaded), false) = (&self.0.results, self.0.loaded.load_full(), job.explain) else {
            return self.place_job(job).await;
        };
        let Some(room) = results.take_room(job.texts.len(), loaded.card.dimensions) else {
            self.0.telemetry.cache.bypassed.inc();
            return self.place_job(job).await;
        };
        let _looking = self.look();
        let answer = Search::new(self, results, loaded, job).await.answer().await;
        Ending { answer, explanation: None, room: Some(room) }
    }
}

/// One call that looks for its results.
struct Search<'a> {
    shell: &'a Shell,
    results: &'a Results,
    loaded: Arc<Loaded>,
    /// When it began, as far as the cache is concerned.
    era: Era,
    job: Job,
    options: Options,
    deadline: Instant,
    /// The different texts, in the order in which each comes first.
    slots: Vec<Slot>,
    /// The slot of each text.
    slot_of: Vec<usize>,
    /// The answer to what was placed last, without its vectors.
    computed: Option<Answer>,
    /// The first owner that gave a result.
    owner: Option<NodeId>,
}

/// One text.
struct Slot {
    key: CacheKey,
    /// Where it comes first.
    text: usize,
    row: Option<Arc<Embedding>>,
}

/// A result that this call has to obtain.
struct Led {
    slot: usize,
    lead: Lead,
    /// Who owns the result, was asked for it, and did not give it.
    owner: Option<NodeId>,
}

impl<'a> Search<'a> {
    async fn new(shell: &'a Shell, results: &'a Results, loaded: Arc<Loaded>, job: Job) -> Self {
        let era = results.cache.era();
        let deadline = Instant::now() + Duration::from_millis(job.deadline_ms.into());
        let options = Options::of(job.options, &loaded.card);
        let keys = KeyMaker::embed(&loaded.card, options);
        let (mut slots, mut slot_of, mut seen) = (Vec::new(), Vec::new(), HashMap::new());
        for (text, words) in job.texts.iter().enumerate() {
            turn(text).await;
            let key = keys.key(words);
            match seen.entry(key) {
                Entry::Occupied(slot) => slot_of.push(*slot.get()),
                Entry::Vacant(slot) => {
                    slot_of.push(*slot.insert(slots.len()));
                    slots.push(Slot { key, text, row: None });
                }
            }
        }
        let (computed, owner) = (None, None);
        Self { shell, results, loaded, era, job, options, deadline, slots, slot_of, computed, owner }
    }

    async fn answer(mut self) -> Result<Answer, Failure> {
        let (mut leads, mut follows) = self.look_here().await;
        let mut patience = None;
        while !leads.is_empty() || !follows.is_empty() {
            // What this call owes to others comes before it waits for them: two that wait for each other would go on
            // only when the patience of one is over.
            if !leads.is_empty() {
                follows.extend(self.obtain(std::mem::take(&mut leads)).await?);
            }
            if follows.is_empty() {
                continue;
            }
            let patience = *patience.get_or_insert_with(|| self.patience());
            leads = self.look_at(&mut follows, patience);
            if leads.is_empty() && !follows.is_empty() {
                if self.deadline <= Instant::now() {
                    self.count_wait("expired");
                    return Err(Failure::Expired);
                }
                Follow::any_changed(follows.iter_mut().map(|(_, follow)| follow), patience, self.deadline).await;
            }
        }
        Ok(self.join())
    }

    /// Fills the slots that this node has results for; who obtains the others is settled.
    async fn look_here(&mut self) -> (Vec<Led>, Vec<(usize, Follow)>) {
        let (mut leads, mut follows) = (Vec::new(), Vec::new());
        let cache = &self.results.cache;
        for (number, slot) in self.slots.iter_mut().enumerate() {
            turn(number).await;
            slot.row = cache.get(&slot.key);
            if slot.row.is_none() {
                match cache.join(slot.key) {
                    Seat::Follow(follow) => follows.push((number, follow)),
                    // Whoever led before may have come to its end since the look.
                    Seat::Lead(lead) => match cache.get(&slot.key) {
                        Some(row) => {
                            lead.done(Arc::clone(&row));
                            slot.row = Some(row);
                        }
                        None => leads.push(Led { slot: number, lead, owner: None }),
                    },
                }
            }
        }
        let found = self.slots.iter().filter(|slot| slot.row.is_some()).count();
        self.count_texts("local", found);
        (leads, follows)
    }

    /// Takes what others obtained meanwhile; returns what this call has to obtain in their place.
    fn look_at(&mut self, follows: &mut Vec<(usize, Follow)>, patience: Duration) -> Vec<Led> {
        let (mut leads, mut shared) = (Vec::new(), 0);
        follows.retain_mut(|(slot, follow)| match follow.look(patience) {
            Look::Row(row) => {
                self.slots[*slot].row = Some(row);
                shared += 1;
                false
            }
            Look::Lead(lead) => {
                leads.push(Led { slot: *slot, lead, owner: None });
                false
            }
            Look::Wait => true,
        });
        self.count_texts("shared", shared);
        for (outcome, count) in [("shared", shared), ("took_over", leads.len())] {
            (0..count).for_each(|_| self.count_wait(outcome));
        }
        leads
    }

    /// How long others may take: what this node would need itself, twice, but never so long that there is no time left
    /// to do it.
    fn patience(&self) -> Duration {
        let estimate = self.shell.estimate(&self.units(self.slots.iter())).unwrap_or_default();
        let left = self.deadline.saturating_duration_since(Instant::now());
        (estimate * 2).max(PATIENCE_MIN).min(left / 2)
    }

    fn units<'s>(&self, slots: impl Iterator<Item = &'s Slot>) -> Vec<u32> {
        slots.map(|slot| self.loaded.card.cost.units(&self.job.texts[slot.text])).collect()
    }

    /// Obtains results, from their owners or by placing a job, and tells all who wait for them. Returns those that are
    /// left to other calls after all.
    async fn obtain(&mut self, leads: Vec<Led>) -> Result<Vec<(usize, Follow)>, Failure> {
        let mut leads = self.ask_owners(leads).await;
        if leads.is_empty() {
            return Ok(Vec::new());
        }
        // Whoever owns what comes back in any order; a job has its texts in the caller's.
        leads.sort_unstable_by_key(|led| led.slot);
        let job = self.job(&leads)?;
        self.count_texts("miss", leads.len());
        let ending = tokio::select! {
            ending = self.shell.place_job(job) => ending,
            // Another call, that lost patience with this one, was sooner.
            rows = given(&leads) => {
                for (Led { slot, .. }, row) in leads.iter().zip(rows) {
                    self.slots[*slot].row = Some(row);
                }
                return Ok(Vec::new());
            }
        };
        match ending.answer {
            Ok(mut answer) => {
                let rows = std::mem::take(&mut answer.rows);
                self.note(answer);
                self.keep(leads, rows).await;
                Ok(Vec::new())
            }
            // This call lost patience and came too late to be taken itself; those that it waited for are still at it.
            Err(Failure::Overloaded { .. } | Failure::Unavailable { .. })
                if leads.iter().all(|led| led.lead.has_company()) =>
            {
                Ok(leads.into_iter().map(|led| (led.slot, led.lead.follow())).collect())
            }
            Err(failure) => {
                let failure = self.in_callers_order(failure, &leads);
                // That this call had too little time says nothing of the next one.
                if failure != Failure::Expired {
                    leads.into_iter().for_each(|led| led.lead.fail());
                }
                Err(failure)
            }
        }
    }

    /// Asks the owners of what is to be obtained; returns what they did not give.
    async fn ask_owners(&mut self, leads: Vec<Led>) -> Vec<Led> {
        let (mut of_owner, mut missing) = (BTreeMap::<NodeId, Vec<Led>>::new(), Vec::new());
        for led in leads {
            match self.shell.other_owner(led.lead.key()) {
                Some(owner) => of_owner.entry(owner).or_default().push(led),
                None => missing.push(led),
            }
        }
        if of_owner.is_empty() {
            return missing;
        }
        let sought = of_owner.values().flatten().chain(&missing).map(|led| &self.slots[led.slot]);
        let mut ways = self.shell.ways(of_owner.keys(), &self.units(sought), self.deadline);
        let mut asked = JoinSet::new();
        for (owner, leads) in &mut of_owner {
            missing.extend(leads.drain(KEYS_MAX.min(leads.len())..));
            let Some(way) = ways.remove(owner) else { continue };
            leads.iter_mut().for_each(|led| led.owner = Some(owner.clone()));
            let keys = leads.iter().map(|led| led.lead.key()).collect();
            let question = Question { model: Arc::clone(&self.loaded.key), keys, dimensions: self.options.dimensions };
            let (shell, owner) = (self.shell.clone(), owner.clone());
            asked.spawn_on(async move { (owner, shell.ask(way, question).await) }, &self.shell.0.runtime);
        }
        while let Some(told) = asked.join_next().await {
            let (owner, found) = told.expect("asking an owner does not panic, and nobody aborts it");
            let leads = of_owner.remove(&owner).expect("each owner is asked once");
            missing.extend(self.take_found(&owner, leads, found).await);
        }
        missing.extend(of_owner.into_values().flatten());
        missing
    }

    /// Takes what an owner gave; returns what it did not.
    async fn take_found(&mut self, owner: &NodeId, leads: Vec<Led>, found: Vec<FoundRow>) -> Vec<Led> {
        if !found.is_empty() {
            self.owner.get_or_insert_with(|| owner.clone());
        }
        self.count_texts("owner", found.len());
        let mut found: HashMap<usize, FoundRow> = found.into_iter().map(|found| (found.at, found)).collect();
        let (mut missing, mut landing) = (Vec::new(), Vec::new());
        for (at, led) in leads.into_iter().enumerate() {
            match found.remove(&at) {
                Some(FoundRow { row, age, .. }) => landing.push((led, Arc::new(row), age)),
                None => missing.push(led),
            }
        }
        self.land(landing).await;
        missing
    }

    /// Keeps what was computed, here and at the owners.
    async fn keep(&mut self, leads: Vec<Led>, rows: Vec<Embedding>) {
        let mut landing = Vec::with_capacity(leads.len());
        let mut gifts = BTreeMap::<NodeId, Vec<(CacheKey, Arc<Embedding>)>>::new();
        for (led, row) in leads.into_iter().zip(rows) {
            let row = Arc::new(row);
            if let Some(owner) = &led.owner {
                gifts.entry(owner.clone()).or_default().push((led.lead.key(), Arc::clone(&row)));
            }
            landing.push((led, row, Duration::ZERO));
        }
        // What was begun before this node's model was found to be wrong is nothing to give.
        if self.land(landing).await {
            for (owner, rows) in gifts {
                self.shell.give(&owner, &self.loaded.key, rows);
            }
        }
    }

    /// Keeps results with the time since they were computed, and gives them to all who wait for them. Returns whether
    /// they can be trusted.
    async fn land(&mut self, rows: Vec<(Led, Arc<Embedding>, Duration)>) -> bool {
        let mut trusted = true;
        for (number, (led, row, age)) in (1..).zip(rows) {
            trusted &= self.results.cache.keep(self.era, led.lead.key(), Arc::clone(&row), age);
            self.slots[led.slot].row = Some(Arc::clone(&row));
            led.lead.done(row);
            if number % KEPT_AT_ONCE_MAX == 0 {
                self.results.cache.settle();
                tokio::task::yield_now().await;
            }
        }
        self.results.cache.settle();
        trusted
    }

    /// A job of the texts that are to be obtained, with the time that is left.
    fn job(&self, leads: &[Led]) -> Result<Job, Failure> {
        let left_us = self.deadline.saturating_duration_since(Instant::now()).as_micros();
        let left_ms = u32::try_from(left_us.div_ceil(1000)).unwrap_or(u32::MAX).min(self.job.deadline_ms);
        if left_ms == 0 {
            return Err(Failure::Expired);
        }
        let mut job = Job { deadline_ms: left_ms, ..self.job.clone() };
        let texts = || leads.iter().map(|led| self.slots[led.slot].text);
        // Mostly all of them are missing: then the job is the call.
        if !texts().eq(0..self.job.texts.len()) {
            job.texts = texts().map(|text| self.job.texts[text].clone()).collect();
        }
        Ok(job)
    }

    /// Adds an answer to what was placed before: a call may have to place more than once.
    fn note(&mut self, answer: Answer) {
        let before = self.computed.take();
        let placements = before.as_ref().map_or(0, |before| before.placements).saturating_add(answer.placements);
        let (queue_us, compute_us) = before.map_or((0, 0), |before| (before.queue_us, before.compute_us));
        let (queue_us, compute_us) = (queue_us.max(answer.queue_us), compute_us + answer.compute_us);
        self.computed = Some(Answer { placements, queue_us, compute_us, ..answer });
    }

    /// The failure of a job of some of the texts, as one of the whole call.
    fn in_callers_order(&self, failure: Failure, leads: &[Led]) -> Failure {
        let of_call = |index: usize| leads.get(index).map_or(index, |led| self.slots[led.slot].text);
        match failure {
            Failure::Input { index, message } => Failure::Input { index: of_call(index), message },
            Failure::Engine { index, message } => Failure::Engine { index: of_call(index), message },
            other @ (Failure::Overloaded { .. } | Failure::Unavailable { .. } | Failure::Expired) => other,
        }
    }

    /// The answer, once each slot is filled.
    fn join(self) -> Answer {
        let row = |&slot: &usize| {
            let row = self.slots[slot].row.as_ref();
            Embedding::clone(row.expect("a search ends well only when each text has its result"))
        };
        let rows = self.slot_of.iter().map(row).collect();
        if let Some(computed) = self.computed {
            return Answer { rows, cache: Some(FoundIn::Miss), ..computed };
        }
        let own = self.shell.0.facts.node_id.shared();
        let (served_by, hops, found_in) = match &self.owner {
            Some(owner) => (owner.shared(), 1, FoundIn::Owner),
            None => (own, 0, FoundIn::Local),
        };
        Answer {
            rows,
            served_by,
            hops,
            placements: 0,
            queue_us: 0,
            compute_us: 0,
            model: self.shell.0.facts.model_name.clone(),
            revision: self.loaded.revision.clone(),
            cache: Some(found_in),
        }
    }

    fn count_texts(&self, place: &'static str, count: usize) {
        self.shell.0.telemetry.cache.texts.get_or_create(&CachePlace { place }).inc_by(count as u64);
    }

    fn count_wait(&self, outcome: &'static str) {
        self.shell.0.telemetry.cache.waits.get_or_create(&CacheOutcome { outcome }).inc();
    }
}

/// Lets other tasks of the thread go on, now and then: `number` things were done since the last wait.
async fn turn(number: usize) {
    if number % TEXTS_PER_TURN == TEXTS_PER_TURN - 1 {
        tokio::task::yield_now().await;
    }
}

/// Waits until other leaders have all of it.
async fn given(leads: &[Led]) -> Vec<Arc<Embedding>> {
    let mut rows = Vec::new();
    for led in leads {
        rows.push(led.lead.given().await);
    }
    rows
}
