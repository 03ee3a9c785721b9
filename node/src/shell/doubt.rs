//! Load reports that cannot be true: each peer that makes them is told of once a run.
//!
//! Part of `shell`.
//! Invariants: such a report never reaches the machine, so that what it would have said is unknown there; the table has
//! at most one line for each member that gossip knows, whatever peers send.
//! Not here: what cannot be true (`wire`, which reads reports).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use shoal_core::id::{BootId, NodeId};
use shoal_core::peers::Word;

use super::Shell;
use crate::forward::Said;
use crate::gossip::Member;
use crate::telemetry::Fault;
use crate::wire::ReportFault;

/// Whose reports are doubted, and in which run of its process.
#[derive(Debug, Default)]
pub(super) struct Doubts(Mutex<BTreeMap<NodeId, BootId>>);

impl Doubts {
    /// Remembers that `peer` said something that cannot be. Returns whether that is new for this run of it.
    fn note(&self, peer: &NodeId, boot: BootId) -> bool {
        let mut doubted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        doubted.insert(peer.clone(), boot) != Some(boot)
    }

    /// Forgets whoever is not among `members`.
    fn keep_only(&self, members: &[Member]) {
        let mut doubted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        doubted.retain(|peer, _| members.iter().any(|member| member.id == *peer));
    }
}

impl Shell {
    /// What can be believed of a direct word.
    pub(super) fn believe(&self, peer: &NodeId, said: Said) -> Word {
        if let Some(fault) = said.fault {
            let members = self.0.members.load();
            // Whoever gossip does not know is not remembered either: the table stays as large as the shoal.
            if let Some(member) = members.iter().find(|member| member.id == *peer) {
                self.doubt(&member.id, member.boot, fault);
            }
        }
        said.word
    }

    /// Looks at the reports that came by gossip, and takes out those that cannot be: `before` is what gossip said last.
    pub(super) fn mind_reports(&self, before: &[Member], members: &mut [Member]) {
        self.0.doubts.keep_only(members);
        for member in members {
            let old = before.iter().find(|old| old.id == member.id && old.boot == member.boot);
            let (Some(said), known) = (member.load, old.and_then(|old| old.load)) else { continue };
            if known == Some(said) {
                continue;
            }
            let backwards = |known: &Result<_, _>| match (known, said) {
                (Ok(known), Ok(said)) => goes_back(known, &said),
                (Ok(_) | Err(_), Ok(_) | Err(_)) => false,
            };
            if known.as_ref().is_some_and(backwards) {
                member.load = Some(Err(ReportFault::Backwards));
            }
            if let Some(Err(fault)) = member.load {
                self.doubt(&member.id, member.boot, fault);
            }
        }
    }

    fn doubt(&self, peer: &NodeId, boot: BootId, fault: ReportFault) {
        self.0.telemetry.reports_refused.get_or_create(&Fault { fault: fault.name() }).inc();
        if self.0.doubts.note(peer, boot) {
            let why = fault;
            tracing::warn!(%peer, %why, "a load report is not believed; the load of this peer counts as unknown");
        }
    }
}

/// One key of gossip is written by one process, in order; answers overtake each other, and are not judged by this.
fn goes_back(known: &shoal_core::load::Report, said: &shoal_core::load::Report) -> bool {
    known.boot == said.boot && said.seq < known.seq
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::peer_door::tests::shell;
    use crate::wire;

    fn member(id: &str, boot: u64, load: Option<&str>) -> Member {
        Member {
            id: NodeId::new(id).unwrap(),
            boot: BootId(boot),
            alive: true,
            peer_addr: "127.0.0.1:1".parse().unwrap(),
            api_addr: String::new(),
            engine: "ready".to_owned(),
            model: String::new(),
            version: String::new(),
            weight: 100,
            backup: false,
            load: load.map(wire::decode_report),
        }
    }

    fn refused(shell: &Shell, fault: &'static str) -> u64 {
        shell.0.telemetry.reports_refused.get_or_create(&Fault { fault }).get()
    }

    #[tokio::test]
    async fn a_report_that_goes_back_is_taken_out_and_counted_once() {
        let shell = shell();
        let (newer, older) = ("v1.1.9.0.0.0.1.0.1.255.255", "v1.1.8.0.0.0.1.0.1.255.255");
        let before = [member("a", 1, Some(newer))];
        let mut after = [member("a", 1, Some(older))];
        shell.mind_reports(&before, &mut after);
        assert_eq!(after[0].load, Some(Err(ReportFault::Backwards)));
        // What did not change is not judged again, and another run counts from one.
        shell.mind_reports(&after.clone(), &mut after);
        shell.mind_reports(&before, &mut [member("a", 2, Some(older))]);
        assert_eq!(refused(&shell, "backwards"), 1);
    }

    #[tokio::test]
    async fn a_peer_is_told_of_once_a_run_and_the_table_is_as_large_as_the_shoal() {
        let shell = shell();
        let said = Said { word: Word::default(), fault: Some(ReportFault::Absurd) };
        let peer = |id: &str| NodeId::new(id).unwrap();
        shell.0.members.store(std::sync::Arc::new(vec![member("a", 1, None)]));
        for _ in 0..3 {
            shell.believe(&peer("a"), said);
            shell.believe(&peer("stranger"), said);
        }
        assert_eq!(refused(&shell, "absurd"), 3, "every one is counted, a stranger's is not");
        let doubts = &shell.0.doubts;
        assert_eq!(doubts.0.lock().unwrap().len(), 1);
        assert!(!doubts.note(&peer("a"), BootId(1)) && doubts.note(&peer("a"), BootId(2)));
        shell.mind_reports(&[], &mut []);
        assert!(doubts.0.lock().unwrap().is_empty());
    }
}
