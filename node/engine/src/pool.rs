//! Pooling: from the vectors of a row's tokens to one vector.
//!
//! For `embedder`. Pure functions over one row; no padding ever gets here, so no mask is needed.
//! Not here: cutting, normalising and the check for NaN (`finish`).

use candle_core::{Result, Tensor};

use crate::Pooling;

/// One vector for one row: `hidden` is `[tokens, width]` f32 with at least one token.
///
/// # Errors
/// candle's, for another shape.
pub(crate) fn pool(hidden: &Tensor, pooling: Pooling) -> Result<Vec<f32>> {
    match pooling {
        Pooling::Cls => hidden.get(0)?.to_vec1(),
        Pooling::Last => hidden.get(hidden.dim(0)? - 1)?.to_vec1(),
        Pooling::Mean => hidden.mean(0)?.to_vec1(),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::pool;
    use crate::Pooling;

    #[test]
    fn each_pooling_takes_what_its_name_says() {
        let hidden = Tensor::new(&[[1f32, 2.0], [3.0, 4.0], [8.0, 0.0]], &Device::Cpu).unwrap();
        assert_eq!(pool(&hidden, Pooling::Cls).unwrap(), [1.0, 2.0]);
        assert_eq!(pool(&hidden, Pooling::Mean).unwrap(), [4.0, 2.0]);
        assert_eq!(pool(&hidden, Pooling::Last).unwrap(), [8.0, 0.0]);
    }
}
