//! The engine of a real embedding model: tokenises, packs, encodes, pools.
//!
//! For the node's compute thread through [`Engine`]; for tests and tools through [`Embedder`] itself.
//! Invariants: a row in a batch equals the row alone within 1e-5; a row that fails takes no other row along.
//! All work runs on the pool of `threads`. A batch is cut into one pack a thread, each of which goes through the whole
//! network on its own: rows do not depend on each other, so this needs no barrier between layers.

use std::path::Path;

use rayon::prelude::*;

use crate::encoder::{Encoder, Packed};
use crate::finish::{check_dimensions, finish_embedding};
use crate::load::{LoadOptions, Loaded};
use crate::pool::pool;
use crate::tokens::{TextTokenizer, TokenRow};
use crate::{Card, Embedding, Engine, EngineError, InputText, RowError, Truncation};

/// Most tokens that go through the network at a time on one thread, unless one row has more: bounds its memory.
const PACK_TOKENS_MAX: usize = 4096;

type RowResult = Result<Embedding, RowError>;

/// A loaded embedding model.
#[derive(Debug)]
pub struct Embedder {
    card: Card,
    tokenizer: TextTokenizer,
    encoder: Encoder,
}

impl Embedder {
    /// Loads the model in `directory`. Its first batch is slower than the next ones: run one before serving.
    ///
    /// # Errors
    /// [`EngineError::Model`] or [`EngineError::Unsupported`], naming the file and what to do.
    pub fn load(directory: &Path, options: &LoadOptions) -> Result<Self, EngineError> {
        let Loaded { card, tokenizer, encoder } = Loaded::read(directory, options)?;
        Ok(Self { card, tokenizer, encoder })
    }

    /// The ids that the model sees for `text`, special tokens included.
    ///
    /// # Errors
    /// [`RowError::TooLong`] where truncation is refused; [`RowError::Unsupported`] for a text that the tokenizer
    /// refuses.
    pub fn token_ids(&self, text: &str, truncation: Truncation) -> Result<Vec<u32>, RowError> {
        self.tokenizer.row(text, truncation).map(|row| row.ids)
    }

    /// The rows of one pack through the network: their indices in the batch with their vectors.
    fn run_pack(&self, pack: &[usize], rows: &[PreparedRow<'_>]) -> Result<Vec<(usize, RowResult)>, EngineError> {
        let compute = |cause: candle_core::Error| EngineError::Compute(cause.to_string());
        let mut packed = Packed::default();
        pack.iter().for_each(|index| packed.push(&rows[*index].tokens));
        let hidden = self.encoder.forward(&packed).map_err(compute)?;
        let mut results = Vec::with_capacity(pack.len());
        for (index, (start, length)) in pack.iter().zip(packed.spans()) {
            let vectors = hidden.narrow(0, start, length).map_err(compute)?;
            let values = pool(&vectors, self.card.pooling).map_err(compute)?;
            let row = &rows[*index];
            let finished = finish_embedding(values, &self.card, row.input.options);
            let tokens = u32::try_from(length).unwrap_or(u32::MAX);
            results.push((row.place, finished.map(|values| Embedding { values, tokens })));
        }
        Ok(results)
    }

    fn prepare<'a>(&self, place: usize, input: &InputText<'a>) -> Result<PreparedRow<'a>, RowError> {
        check_dimensions(&self.card, input.options)?;
        let tokens = self.tokenizer.row(input.text, input.options.truncation)?;
        Ok(PreparedRow { place, input: *input, tokens })
    }
}

/// A row that can be computed.
struct PreparedRow<'a> {
    /// Its place in the batch.
    place: usize,
    input: InputText<'a>,
    tokens: TokenRow,
}

impl Engine for Embedder {
    fn card(&self) -> &Card {
        &self.card
    }

    fn run(&mut self, batch: &[InputText<'_>]) -> Result<Vec<RowResult>, EngineError> {
        let this = &*self;
        // From a thread outside the pool each small parallel step would be handed over anew; this hands over once.
        rayon::scope(|_| {
            let prepared: Vec<_> =
                batch.par_iter().enumerate().map(|(place, input)| this.prepare(place, input)).collect();
            let mut results: Vec<Option<RowResult>> = vec![None; batch.len()];
            let mut rows = Vec::with_capacity(batch.len());
            for (place, row) in prepared.into_iter().enumerate() {
                match row {
                    Ok(row) => rows.push(row),
                    Err(cause) => results[place] = Some(Err(cause)),
                }
            }
            let lengths: Vec<usize> = rows.iter().map(|row| row.tokens.ids.len()).collect();
            let packs = packs(&lengths, rayon::current_num_threads());
            let computed: Vec<_> =
                packs.par_iter().with_max_len(1).map(|pack| this.run_pack(pack, &rows)).collect::<Result<_, _>>()?;
            for (place, result) in computed.into_iter().flatten() {
                results[place] = Some(result);
            }
            Ok(results.into_iter().map(|result| result.expect("each row is refused or in one pack")).collect())
        })
    }
}

/// Cuts rows of the given `lengths` (tokens) into packs of about equal size, at least one a thread where there are rows
/// enough; returns the indices of each pack's rows.
fn packs(lengths: &[usize], threads: usize) -> Vec<Vec<usize>> {
    let tokens: usize = lengths.iter().sum();
    let count = tokens.div_ceil(PACK_TOKENS_MAX).next_multiple_of(threads.max(1)).min(lengths.len());
    let mut packs = vec![(0usize, Vec::new()); count];
    // The longest first, each into the pack that is shortest so far: no pack ends long after the others.
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(lengths[*index]));
    for index in order {
        if let Some((tokens, pack)) = packs.iter_mut().min_by_key(|(tokens, _)| *tokens) {
            *tokens += lengths[index];
            pack.push(index);
        }
    }
    packs.into_iter().map(|(_, pack)| pack).collect()
}

#[cfg(test)]
mod tests {
    use super::{PACK_TOKENS_MAX, packs};

    #[test]
    fn packs_hold_each_row_once_and_are_about_equal() {
        for (lengths, threads) in [(vec![3; 10], 4), (vec![500, 1, 1, 1, 499], 2), (vec![7], 8), (vec![512; 100], 3)] {
            let packs = packs(&lengths, threads);
            let mut seen: Vec<usize> = packs.iter().flatten().copied().collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            let sizes = packs.iter().map(|pack| pack.iter().map(|index| lengths[*index]).sum::<usize>());
            let (least, most) = (sizes.clone().min().unwrap(), sizes.max().unwrap());
            assert!(most - least <= *lengths.iter().max().unwrap(), "{least} and {most} tokens");
            assert!(most <= PACK_TOKENS_MAX + lengths.iter().max().unwrap(), "{most} tokens in one pack");
        }
        assert!(packs(&[], 4).is_empty());
    }
}
