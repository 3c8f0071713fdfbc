//! Brings sound to 48 kHz.

use rubato::{
    Fft, FixedSync, Resampler as _,
    audioadapter_buffers::direct::{InterleavedSlice, SequentialSliceOfVecs},
};

use super::AAC_FRAME;

const RATE: usize = 48_000;

/// Of any rate that AAC has; what has 48 kHz passes.
pub(super) struct Resampler {
    channels: usize,
    fft: Option<Fft<f32>>,
    /// Samples that a frame becomes, less than two frames' of the lowest rate of AAC.
    output: Vec<f32>,
    /// Of a channel, at 48 kHz and in 1/`rate` of a sample: what went in, less what came out.
    balance: i64,
    rate: u32,
}

impl Resampler {
    pub(super) fn new(rate: u32, channels: usize) -> Option<Self> {
        let input = usize::try_from(rate).ok().filter(|rate| (7_350..=96_000).contains(rate))?;
        let fft =
            if input == RATE { None } else { Some(Fft::new(input, RATE, AAC_FRAME, channels, FixedSync::Input).ok()?) };
        let most = fft.as_ref().map_or(0, |fft| fft.output_frames_max());
        Some(Self { channels, fft, output: vec![0.0; most * channels], balance: 0, rate })
    }

    /// By how many samples at 48 kHz what comes out is late.
    pub(super) fn delay(&self) -> i64 {
        self.fft.as_ref().map_or(0, |fft| i64::try_from(fft.output_delay()).unwrap_or(0))
    }

    /// Samples of a channel that went in and have not come out.
    pub(super) fn waiting(&self) -> i64 {
        self.balance / i64::from(self.rate)
    }

    /// Takes a frame, a channel each; adds what comes out, interleaved.
    pub(super) fn push(&mut self, planes: &[Vec<f32>], sound: &mut Vec<f32>) {
        let Some(fft) = &mut self.fft else {
            let samples = (0..AAC_FRAME).flat_map(|index| planes.iter().filter_map(move |plane| plane.get(index)));
            sound.extend(samples);
            return;
        };
        let frames = self.output.len() / self.channels;
        let input = SequentialSliceOfVecs::new(planes, self.channels, AAC_FRAME);
        let output = InterleavedSlice::new_mut(&mut self.output, self.channels, frames);
        let (Ok(input), Ok(mut output)) = (input, output) else { return };
        // sizes are those that it asked for; nothing comes out otherwise
        let written = fft.process_into_buffer(&input, &mut output, None).map_or(0, |(_, written)| written);
        sound.extend_from_slice(self.output.get(..written * self.channels).unwrap_or_default());
        let (went, came) = (i64::try_from(AAC_FRAME * RATE), i64::try_from(written));
        self.balance += went.unwrap_or(0) - came.unwrap_or(0) * i64::from(self.rate);
    }

    /// Forgets what has not come out.
    pub(super) fn reset(&mut self) {
        self.balance = 0;
        if let Some(fft) = &mut self.fft {
            fft.reset();
        }
    }
}
