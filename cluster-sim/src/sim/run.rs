//! One plan, carried out, judged and counted.
//!
//! For `explore` and for tests.
//! Invariants: everything that happened is in the digest; a broken invariant ends the run, with what led to it.

use std::sync::Arc;

use shoal_core::time::{Micros, MonoTime};

use super::check::{Broken, Checks};
use super::digest::Digest;
use super::plan::Plan;
use super::report::Report;
use super::seen::{Ended, Seen, What};
use super::slab::Key;
use super::world::World;

/// Things that happened which are kept for a report of a broken invariant.
const KEPT: usize = 1 << 16;
/// Lines of such a report.
const TRAIL_LINES: usize = 30;
/// How often it is looked whether all is at rest.
const REST_EVERY: Micros = Micros::from_ms(100);

/// How a run went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Of everything that happened.
    pub digest: u64,
    /// In numbers.
    pub report: Report,
    /// How often each rule of the machines decided something.
    pub exercised: Vec<(&'static str, u64)>,
    /// What must not be, if it was.
    pub broken: Option<Failure>,
    /// When all was at rest.
    pub ended: MonoTime,
}

/// A broken invariant and what led to it.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What must not be.
    pub broken: Broken,
    /// The last things that happened to the request or the node, one a line.
    pub trail: Vec<String>,
}

/// When a run ends before its plan does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// With the first broken invariant: what comes after it proves nothing.
    Broken,
    /// Not at all: for comparisons, which count what came of it. The first broken invariant is told all the same.
    End,
}

/// Carries out `plan`.
#[must_use]
pub fn run(plan: &Arc<Plan>, until: Until) -> Outcome {
    let mut world = World::new(plan);
    let (mut checks, mut report, mut digest) = (Checks::new(plan), Report::default(), Digest::default());
    let mut kept = Kept::default();
    let rest_from = plan.arrivals.until.max(plan.heal_at + Micros::from_ms(3000));
    let mut look_at = rest_from;
    let mut broken = None;
    while world.advance() {
        feed(&mut digest, &world);
        kept.keep(&world);
        report.observe(&world);
        if broken.is_none()
            && let Err(found) = checks.observe(&world)
        {
            broken = Some(Failure { trail: kept.trail(&found), broken: found });
            if until == Until::Broken {
                break;
            }
        }
        if look_at <= world.now() {
            look_at = world.now() + REST_EVERY;
            if world.at_rest() {
                break;
            }
        }
    }
    report.end(&world);
    let at_end = |broken: Broken| Failure { trail: kept.trail(&broken), broken };
    let broken = broken.or_else(|| checks.at_end(&world).err().map(at_end));
    Outcome { digest: digest.value(), exercised: world.exercised(), report, broken, ended: world.now() }
}

fn feed(digest: &mut Digest, world: &World) {
    digest.word(world.now().as_micros());
    for seen in world.seen() {
        digest.word((u64::from(seen.node) << 32) | u64::from(seen.other) | ((seen.what as u64) << 56));
        digest.word(seen.value ^ seen.request.number().rotate_left(17));
    }
}

/// The last things that happened.
#[derive(Debug, Default)]
struct Kept {
    ring: Vec<(MonoTime, Seen)>,
    next: usize,
}

impl Kept {
    fn keep(&mut self, world: &World) {
        for seen in world.seen().iter().filter(|seen| tells(seen.what)) {
            let entry = (world.now(), *seen);
            match self.ring.get_mut(self.next) {
                Some(place) => *place = entry,
                None => self.ring.push(entry),
            }
            self.next = (self.next + 1) % KEPT;
        }
    }

    fn trail(&self, broken: &Broken) -> Vec<String> {
        let (newer, older) = self.ring.split_at(self.next.min(self.ring.len()));
        let node = u32::try_from(broken.node).unwrap_or(u32::MAX);
        let of_request = |seen: &Seen| seen.request == broken.request;
        let of_node = |seen: &Seen| seen.node == node || seen.other == node;
        let concerns = |seen: &Seen| {
            if broken.request == Key::NONE { of_node(seen) } else { of_request(seen) || is_fault(seen.what) }
        };
        let lines: Vec<String> = older.iter().chain(newer).filter(|(_, seen)| concerns(seen)).map(line).collect();
        lines[lines.len().saturating_sub(TRAIL_LINES)..].to_vec()
    }
}

/// Whether a person who looks for a cause wants to see it.
fn tells(what: What) -> bool {
    !matches!(what, What::Ticked | What::Round | What::Gossiped | What::Members | What::Published)
}

fn is_fault(what: What) -> bool {
    matches!(
        what,
        What::Started
            | What::Ready
            | What::Killed
            | What::Draining
            | What::Exited
            | What::Frozen
            | What::Thawed
            | What::FaultBegan
            | What::Healed
    )
}

fn line((at, seen): &(MonoTime, Seen)) -> String {
    let ms = at.as_micros() as f64 / 1000.0;
    let with = if seen.other == seen.node { String::new() } else { format!(" with node {}", seen.other) };
    let request =
        if seen.request == Key::NONE { String::new() } else { format!(", request {}", seen.request.ordinal()) };
    let value = match (seen.what, Ended::of(seen.value)) {
        (What::Finished | What::PeersJobEnded, Some(ended)) => format!(": {}", ended.word()),
        _ => format!(" ({})", seen.value),
    };
    format!("{ms:>12.3} ms  node {}{with}: {}{request}{value}", seen.node, seen.what.word())
}
