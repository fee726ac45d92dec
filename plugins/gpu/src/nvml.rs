//! Reads NVML, NVIDIA's management library, which comes with the driver and is loaded when the source starts.
//!
//! Every value is optional: a function that this driver lacks or this GPU does not support leaves out its own value only. What an error means
//! for the rest is decided in one place, `severity`.

use std::ffi::OsStr;

use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml, cuda_driver_version_major, cuda_driver_version_minor};

/// What the driver installs; the name without `.1` belongs to its development files and is often missing.
pub const DEFAULT_LIBRARY: &str = "libnvidia-ml.so.1";

/// One GPU in one round.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gpu {
    pub name: Option<String>,
    pub utilization_percent: Option<u32>,
    pub memory_controller_percent: Option<u32>,
    pub memory: Option<Memory>,
    pub temperature_celsius: Option<u32>,
    pub power_milliwatts: Option<u32>,
}

/// Device memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    pub total: u64,
    /// Without what the driver reserves for itself, as nvidia-smi counts since driver 510.
    pub used: u64,
}

/// One round. A GPU's place in the list is its index.
pub type Round = Vec<Result<Gpu, GpuError>>;

/// Why a GPU gave no values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuError {
    /// It has fallen off the bus or waits for a reset; opening NVML anew may bring it back.
    pub lost: bool,
    pub reason: String,
}

/// NVML as a whole can no longer be used and has to be opened anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken(pub String);

/// How far an error reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Severity {
    Value,
    Gpu,
    Library,
}

fn severity(error: &NvmlError) -> Severity {
    match error {
        NvmlError::GpuLost | NvmlError::ResetRequired => Severity::Gpu,
        NvmlError::Uninitialized | NvmlError::DriverNotLoaded | NvmlError::LibRmVersionMismatch => {
            Severity::Library
        }
        _ => Severity::Value,
    }
}

/// Loads and starts NVML.
///
/// # Errors
/// A reason for an operator, with what to do.
pub fn open(library: &OsStr) -> Result<Nvml, String> {
    Nvml::builder()
        .lib_path(library)
        .init()
        .map_err(|e| reason(&e, &library.to_string_lossy()))
}

fn reason(error: &NvmlError, library: &str) -> String {
    match error {
        NvmlError::LibloadingError(e) => format!(
            "no NVIDIA driver found: {library} cannot be loaded ({e}). Install the driver, run the container with the NVIDIA runtime, \
             name the file in the option `library`, or switch this source off"
        ),
        NvmlError::FailedToLoadSymbol(_) => format!(
            "{library} is not NVIDIA's management library: it has no nvmlInit_v2. Correct the option `library`"
        ),
        NvmlError::DriverNotLoaded => {
            "the NVIDIA kernel module is not loaded. Load it (`modprobe nvidia`) or see `dmesg` for why it does not load".into()
        }
        NvmlError::LibRmVersionMismatch => {
            "the NVIDIA library and the loaded kernel module are of different versions, as after an upgrade. Reboot, or reload the nvidia modules"
                .into()
        }
        NvmlError::NoPermission => {
            "no permission to talk to the NVIDIA driver. Give the agent's user access to /dev/nvidiactl and /dev/nvidia*".into()
        }
        e => format!("NVML does not start: {e}. See whether `nvidia-smi` works"),
    }
}

/// Reads all GPUs; the list is empty when the driver sees none.
///
/// # Errors
/// [`Broken`] when NVML has to be opened anew.
pub fn read(nvml: &Nvml) -> Result<Round, Broken> {
    let count = nvml
        .device_count()
        .map_err(|e| Broken(format!("NVML cannot count the GPUs: {e}")))?;
    (0..count).map(|index| read_gpu(nvml, index)).collect()
}

fn read_gpu(nvml: &Nvml, index: u32) -> Result<Result<Gpu, GpuError>, Broken> {
    let mut worst = Worst(None);
    let Some(device) = worst.note(nvml.device_by_index(index)) else {
        return worst.verdict(index, Gpu::default());
    };
    let utilization = worst.note(device.utilization_rates());
    let gpu = Gpu {
        name: worst.note(device.name()),
        utilization_percent: utilization.as_ref().map(|u| u.gpu),
        memory_controller_percent: utilization.as_ref().map(|u| u.memory),
        memory: worst.note(memory(&device)),
        temperature_celsius: worst.note(device.temperature(TemperatureSensor::Gpu)),
        power_milliwatts: worst.note(device.power_usage()),
    };
    worst.verdict(index, gpu)
}

fn memory(device: &Device<'_>) -> Result<Memory, NvmlError> {
    device.memory_info().map(|m| Memory {
        total: m.total,
        used: m.used,
    })
}

/// The gravest error of one GPU's round.
struct Worst(Option<NvmlError>);

impl Worst {
    fn note<T>(&mut self, result: Result<T, NvmlError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                if self
                    .0
                    .as_ref()
                    .is_none_or(|worst| severity(&error) > severity(worst))
                {
                    self.0 = Some(error);
                }
                None
            }
        }
    }

    fn verdict(self, index: u32, gpu: Gpu) -> Result<Result<Gpu, GpuError>, Broken> {
        let Some(error) = self.0 else {
            return Ok(Ok(gpu));
        };
        let reason = format!("GPU {index}: {error}");
        match severity(&error) {
            Severity::Library => Err(Broken(reason)),
            Severity::Value if gpu != Gpu::default() => Ok(Ok(gpu)),
            severity => Ok(Err(GpuError {
                lost: severity == Severity::Gpu,
                reason,
            })),
        }
    }
}

/// What does not change while NVML is open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    pub driver_version: Option<String>,
    pub nvml_version: Option<String>,
    /// The newest CUDA that the driver runs.
    pub cuda_version: Option<String>,
    /// Name and UUID by index; the UUID stays when an index changes.
    pub gpus: Vec<(Option<String>, Option<String>)>,
}

/// Reads the facts.
#[must_use]
pub fn facts(nvml: &Nvml) -> Facts {
    let cuda = |v| {
        format!(
            "{}.{}",
            cuda_driver_version_major(v),
            cuda_driver_version_minor(v)
        )
    };
    let gpu = |index| {
        let device = nvml.device_by_index(index).ok();
        let name = device.as_ref().and_then(|d| d.name().ok());
        (name, device.and_then(|d| d.uuid().ok()))
    };
    Facts {
        driver_version: nvml.sys_driver_version().ok(),
        nvml_version: nvml.sys_nvml_version().ok(),
        cuda_version: nvml.sys_cuda_driver_version().ok().map(cuda),
        gpus: (0..nvml.device_count().unwrap_or(0)).map(gpu).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_start_up_failure_says_what_to_do() {
        for (error, hint) in [
            (NvmlError::DriverNotLoaded, "modprobe nvidia"),
            (NvmlError::LibRmVersionMismatch, "Reboot"),
            (NvmlError::NoPermission, "/dev/nvidiactl"),
            (NvmlError::FailedToLoadSymbol(String::new()), "`library`"),
            (NvmlError::Unknown, "nvidia-smi"),
        ] {
            let text = reason(&error, "x.so");
            assert!(text.contains(hint), "{text}");
        }
    }

    #[test]
    fn a_missing_value_never_hides_a_lost_gpu() {
        let mut worst = Worst(None);
        assert_eq!(worst.note::<u32>(Err(NvmlError::NotSupported)), None);
        assert_eq!(worst.note::<u32>(Err(NvmlError::GpuLost)), None);
        assert_eq!(worst.note::<u32>(Err(NvmlError::NotSupported)), None);
        let half = Gpu {
            power_milliwatts: Some(1),
            ..Gpu::default()
        };
        assert!(worst.verdict(0, half).unwrap().unwrap_err().lost);
    }
}
