// Speech-like sound made on the spot, and what is needed to recognise it again; the same as `sound.py`.
//
// Mono, signed 16 bits, little endian, 24 kHz: the Realtime API's `pcm16`.

const RATE = 24_000;
export const BYTES_PER_MS = (RATE * 2) / 1_000;
// A pitch of the human voice; what comes back must have it too.
export const PITCH_HZ = 150;

// Buzz of a dozen harmonics that swells and falls four times a second, as syllables do.
export function voiced(milliseconds) {
  const samples = Buffer.alloc(BYTES_PER_MS * milliseconds);
  for (let n = 0; n < samples.length / 2; n++) {
    const seconds = n / RATE;
    let buzz = 0;
    for (let h = 1; h <= 12; h++) buzz += Math.sin(2 * Math.PI * PITCH_HZ * h * seconds) / h;
    const syllable = 0.6 + 0.4 * Math.sin(2 * Math.PI * 4 * seconds);
    samples.writeInt16LE(Math.trunc(6_000 * syllable * buzz), 2 * n);
  }
  return samples;
}

export const silence = (milliseconds) => Buffer.alloc(BYTES_PER_MS * milliseconds);

// Base64 of stretches as a microphone gives them.
export function chunks(audio, milliseconds = 20) {
  const size = BYTES_PER_MS * milliseconds;
  return Array.from({ length: Math.ceil(audio.length / size) }, (_, n) =>
    audio.subarray(n * size, (n + 1) * size).toString('base64'),
  );
}

// Root mean square, 0 to 32,767.
export function loudness(audio) {
  const samples = toSamples(audio);
  return Math.sqrt(samples.reduce((sum, sample) => sum + sample * sample, 0) / Math.max(1, samples.length));
}

// The strongest period between 80 and 400 Hz in the middle of the sound, by autocorrelation.
export function pitch(audio) {
  const samples = toSamples(audio);
  const size = Math.min(2_400, samples.length >> 1);
  const start = Math.max(0, ((samples.length - size) >> 1) - RATE / 80);
  let best = { likeness: -Infinity, lag: 1 };
  for (let lag = RATE / 400; lag < RATE / 80; lag++) {
    let likeness = 0;
    for (let n = start; n < start + size; n++) likeness += samples[n] * (samples[n + lag] ?? 0);
    if (likeness > best.likeness) best = { likeness, lag };
  }
  return RATE / best.lag;
}

function toSamples(audio) {
  return Array.from({ length: audio.length >> 1 }, (_, n) => audio.readInt16LE(2 * n));
}
