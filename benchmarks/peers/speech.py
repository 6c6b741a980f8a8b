"""Sound made from the spoken digits' MFCCs, for models that hear: mel frames, and a voice.

The package carries MFCCs alone (librosa's: 22,050 Hz, a frame every 512 samples, decibels of 128
mel bands, the first 13 of their orthonormal DCT), which hold the smooth envelope of each spectrum
and no pitch. A made pitch, drawn for each recording, takes its place: harmonics under the envelope.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.fft import idct

from compress.data.references import load_task

Sound = npt.NDArray[np.float32]
Envelopes = npt.NDArray[np.float64]

RATE, STEP = 16_000, 160  # samples a second, samples from frame to frame
_BANDS, _TOP = 128, 11_025.0  # mel bands of the source, and where they end, in Hz
_FRAME = 512 / 22_050 * RATE / STEP  # our frames in one of the source
_VOICES = (90.0, 320.0)  # Hz


def mel(frequency: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Mels of a frequency in Hz, by Slaney's scale: linear to 1 kHz, then logarithmic."""
    hertz = np.asarray(frequency, dtype=np.float64)
    above = 15 + 27 * np.log(np.maximum(hertz, 1e3) / 1e3) / np.log(6.4)
    return np.where(hertz < 1e3, hertz * 3 / 200, above)


@cache
def recordings(split: str) -> list[Envelopes]:
    """Decibels of each recording, (frames every 10 ms, 128 bands), in the order of the split."""
    task = load_task("spoken-digits")
    part = getattr(task, split)
    assert part.lengths is not None
    known = task.preprocessing
    frames = part.inputs.numpy() * known["deviation"] + known["mean"]
    found = []
    for rows, length in zip(frames, part.lengths.tolist(), strict=True):
        whole = idct(np.pad(rows[:length], ((0, 0), (0, _BANDS - rows.shape[1]))), norm="ortho")
        found.append(_stretch(whole, max(2, round(length * _FRAME))))
    return found


def _stretch(frames: Envelopes, count: int) -> Envelopes:
    at = np.linspace(0, len(frames) - 1, count)
    low = np.minimum(at.astype(int), max(0, len(frames) - 2))
    share = (at - low)[:, None]
    high = np.minimum(low + 1, len(frames) - 1)
    found: Envelopes = frames[low] * (1 - share) + frames[high] * share
    return found


def mel_frames(split: str, count: int, frames: int, bands: int) -> Sound:
    """Power in `bands` mel bands to 8 kHz, (count, frames, bands), of digits said in a row."""
    edges = np.linspace(0, mel(_TOP), _BANDS)
    wanted = np.linspace(0, mel(RATE / 2), bands)
    spoken, rows = iter(recordings(split) * 8), []
    for _ in range(count):
        parts: list[Envelopes] = []
        while sum(map(len, parts)) < frames:
            parts.append(next(spoken))
        power = 10 ** (np.concatenate(parts)[:frames] / 10)
        row = np.stack([np.interp(wanted, edges, frame) for frame in power])
        rows.append(row / row.mean() * 1e-3)  # about that of speech at -30 dB
    return np.stack(rows).astype(np.float32)


def voice(split: str, count: int, seed: int = 0) -> tuple[Sound, npt.NDArray[np.bool_]]:
    """Samples at 16 kHz of so many recordings with pauses between, and where somebody speaks."""
    random = np.random.default_rng(seed)
    sounds, speech = [], []
    for envelope in recordings(split)[:count]:
        sound = _say(envelope, random)
        pause = random.normal(0, 1e-3, random.integers(1_000, 8_000))
        sounds += [sound / np.abs(sound).max() * 0.5, pause]
        speech += [np.ones(len(sound), bool), np.zeros(len(pause), bool)]
    return np.concatenate(sounds).astype(np.float32), np.concatenate(speech)


def _say(envelope: Envelopes, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """Harmonics of a gliding pitch, as loud as the envelope is there, and a little noise."""
    frames = len(envelope)
    low, high = np.log(_VOICES)
    start = random.uniform(low, high)
    pitch = np.exp(np.linspace(start, start + random.normal(0, 0.15), frames))
    samples = np.arange(frames * STEP) / STEP
    phase = 2 * np.pi * np.cumsum(np.interp(samples, np.arange(frames), pitch)) / RATE
    edges = np.linspace(0, mel(_TOP), _BANDS)
    found = random.normal(0, 1e-4, len(samples))
    for harmonic in range(1, int(4_000 / pitch.max()) + 1):
        at = mel(harmonic * pitch)
        level = [np.interp(at[frame], edges, envelope[frame]) for frame in range(frames)]
        loud = np.interp(samples, np.arange(frames), 10 ** (np.array(level) / 20))
        found += loud * np.cos(harmonic * phase)
    return found
