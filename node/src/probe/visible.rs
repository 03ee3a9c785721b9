//! Which GPUs of the machine are this process's, by `CUDA_VISIBLE_DEVICES`.
//!
//! For `nvml`, because NVML counts all GPUs of the machine while CUDA counts those that the variable leaves, in an
//! order of its own. GPUs named by UUID are found by it. Numbers are places in the order of the PCI bus, which is
//! CUDA's order if `CUDA_DEVICE_ORDER=PCI_BUS_ID` or if all GPUs are of one model; else CUDA puts the fastest first, by
//! a rule that only CUDA knows, and a number then says nothing here: that is an error, not a guess.
//! Not here: reading the GPUs.

use std::env;

/// Most entries of the list that are looked at: more than any machine has GPUs.
const ENTRIES_MAX: usize = 256;

/// What the environment says about visible GPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Visible {
    /// `None` = every GPU.
    list: Option<String>,
    in_bus_order: bool,
}

/// A GPU of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// NVML's.
    pub(super) index: u32,
    pub(super) uuid: String,
    /// Domain, bus, device.
    pub(super) place: (u32, u32, u32),
    pub(super) model: String,
}

/// How NVML is asked for a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Gpu {
        index: u32,
        uuid: String,
    },
    /// A MIG slice, by its own UUID: it is no GPU of the list that NVML gives.
    Slice {
        uuid: String,
    },
}

impl Visible {
    /// As `CUDA_VISIBLE_DEVICES` (`None` = not set) and `CUDA_DEVICE_ORDER` have it.
    #[must_use]
    pub fn new(list: Option<String>, order: Option<&str>) -> Self {
        Self { list, in_bus_order: order == Some("PCI_BUS_ID") }
    }

    /// As this process's environment has it.
    #[must_use]
    pub fn from_environment() -> Self {
        let read = |name| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        Self::new(read("CUDA_VISIBLE_DEVICES"), read("CUDA_DEVICE_ORDER").as_deref())
    }

    /// Whether only some GPUs are meant.
    pub(super) const fn names_gpus(&self) -> bool {
        self.list.is_some()
    }

    /// The visible ones among `found`, as CUDA counts them. `silent` is how many GPUs would not say who they are.
    ///
    /// An entry that names no GPU ends the list, as CUDA has it.
    ///
    /// # Errors
    /// Which GPU is meant cannot be known; the text says how to mend that.
    pub(super) fn choose(&self, found: &[Found], silent: usize) -> Result<Vec<Target>, String> {
        let mut in_order: Vec<&Found> = found.iter().collect();
        in_order.sort_by_key(|gpu| gpu.place);
        let gpu = |found: &&Found| Target::Gpu { index: found.index, uuid: found.uuid.clone() };
        let Some(list) = &self.list else { return Ok(in_order.iter().map(gpu).collect()) };

        let mut chosen: Vec<Target> = Vec::new();
        for entry in list.split(',').take(ENTRIES_MAX).map(str::trim) {
            let target = if entry.starts_with("MIG-") {
                Some(Target::Slice { uuid: entry.to_owned() })
            } else if let Ok(number) = entry.parse::<usize>() {
                self.check_order(found, silent)?;
                in_order.get(number).map(gpu)
            } else {
                let mut named = in_order.iter().filter(|found| is_named(found, entry));
                let target = named.next().map(gpu).filter(|_| named.next().is_none());
                if target.is_none() && entry.starts_with("GPU-") && 0 < silent {
                    return Err(format!("{} may be one of {silent} GPUs that do not answer", self.variable()));
                }
                target
            };
            let Some(target) = target else { break };
            if !chosen.contains(&target) {
                chosen.push(target);
            }
        }
        Ok(chosen)
    }

    /// The variable and its value, for people.
    pub(super) fn variable(&self) -> String {
        let value: String = self.list.iter().flat_map(|list| list.chars()).take(200).collect();
        format!("CUDA_VISIBLE_DEVICES={value:?}")
    }

    /// Whether places on the bus are CUDA's numbers.
    fn check_order(&self, found: &[Found], silent: usize) -> Result<(), String> {
        let variable = self.variable();
        if 0 < silent {
            return Err(format!("{variable} counts GPUs, and {silent} of them do not answer; name GPUs by UUID"));
        }
        if !self.in_bus_order && found.windows(2).any(|pair| pair[0].model != pair[1].model) {
            let names: Vec<_> = found.iter().map(|gpu| format!("{} ({})", gpu.uuid, gpu.model)).collect();
            return Err(format!(
                "{variable} counts GPUs of different models in an order that only CUDA knows; set \
                 CUDA_DEVICE_ORDER=PCI_BUS_ID, or name them by UUID: {}",
                names.join(", ")
            ));
        }
        Ok(())
    }
}

/// Whether `entry` is the UUID of a GPU, or the beginning of it.
fn is_named(found: &Found, entry: &str) -> bool {
    entry.starts_with("GPU-") && found.uuid.starts_with(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two of one model, whose places on the bus are not in NVML's order, and one of another model.
    fn machine() -> Vec<Found> {
        let gpu = |index, uuid: &str, bus, model: &str| {
            let (uuid, model) = (uuid.to_owned(), model.to_owned());
            Found { index, uuid, place: (0, bus, 0), model }
        };
        vec![gpu(0, "GPU-aa11", 0x81, "H200"), gpu(1, "GPU-ab22", 0x41, "H200"), gpu(2, "GPU-cc33", 0xc1, "L4")]
    }

    fn chosen(list: &str, order: Option<&str>, found: &[Found]) -> Result<String, String> {
        let targets = Visible::new(Some(list.to_owned()), order).choose(found, 0)?;
        let names: Vec<String> = targets
            .into_iter()
            .map(|target| match target {
                Target::Gpu { index, uuid } => {
                    assert_eq!(found.iter().find(|gpu| gpu.uuid == uuid).unwrap().index, index);
                    uuid
                }
                Target::Slice { uuid } => uuid,
            })
            .collect();
        Ok(names.join(" "))
    }

    #[test]
    fn without_the_variable_every_gpu_is_visible_in_bus_order() {
        let targets = Visible::new(None, None).choose(&machine(), 1).unwrap();
        let indices: Vec<u32> = targets
            .iter()
            .map(|target| match target {
                Target::Gpu { index, .. } => *index,
                Target::Slice { .. } => panic!("no slice was named"),
            })
            .collect();
        assert_eq!(indices, [1, 0, 2]);
    }

    #[test]
    fn the_list_is_read_as_cuda_reads_it() {
        let cases = [
            ("", ""),
            ("-1", ""),
            ("NoDevFiles", ""),
            ("0", "GPU-ab22"),
            ("1, 0", "GPU-aa11 GPU-ab22"),
            ("2,-1,0", "GPU-cc33"),
            ("1,7,0", "GPU-aa11"),
            ("0,0,1", "GPU-ab22 GPU-aa11"),
            ("GPU-cc33,GPU-aa", "GPU-cc33 GPU-aa11"),
            ("GPU-a", ""),
            ("GPU-zz,0", ""),
            ("cc33", ""),
            ("99999999999999999999", ""),
            ("MIG-5f,GPU-cc", "MIG-5f GPU-cc33"),
        ];
        for (list, expected) in cases {
            assert_eq!(chosen(list, Some("PCI_BUS_ID"), &machine()).as_deref(), Ok(expected), "{list:?}");
        }
    }

    #[test]
    fn a_number_is_an_error_where_only_cuda_knows_the_order() {
        for order in [None, Some("FASTEST_FIRST")] {
            let error = chosen("0", order, &machine()).unwrap_err();
            for word in ["CUDA_VISIBLE_DEVICES=\"0\"", "CUDA_DEVICE_ORDER=PCI_BUS_ID", "GPU-cc33 (L4)"] {
                assert!(error.contains(word), "{word} not in {error}");
            }
            assert_eq!(chosen("0", order, &machine()[..2]).as_deref(), Ok("GPU-ab22"), "one model has one order");
            assert_eq!(chosen("GPU-cc", order, &machine()).as_deref(), Ok("GPU-cc33"), "a UUID needs no order");
        }
    }

    #[test]
    fn a_gpu_that_does_not_say_who_it_is_makes_numbers_and_strange_names_unknown() {
        let choose = |list: &str| Visible::new(Some(list.to_owned()), Some("PCI_BUS_ID")).choose(&machine(), 1);
        assert!(choose("0").unwrap_err().contains("1 of them do not answer"));
        assert!(choose("GPU-dd").unwrap_err().contains("may be one of 1 GPUs"));
        assert_eq!(choose("GPU-cc").unwrap().len(), 1);
        assert_eq!(choose("-1").unwrap(), []);
    }
}
