// openai-node, unmodified, holds a conversation: directly with the stand-in and through the gateway.
//
// The SDK makes `wss:` of every address and refuses anything else, so a TLS terminator with a certificate made for
// this run stands in front of the plain loopback ports; the SDK trusts it by its documented `options.ca`.

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import readline from 'node:readline';
import { after, before, describe, test } from 'node:test';
import tls from 'node:tls';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import OpenAI, { AzureOpenAI } from 'openai';
import { OpenAIRealtimeWS as BetaRealtimeWS } from 'openai/beta/realtime/ws';
import { OpenAIRealtimeWS } from 'openai/realtime/ws';
import { AzureOpenAI as AzureOpenAI6 } from 'openai-6';
import { OpenAIRealtimeWS as OpenAIRealtimeWS6 } from 'openai-6/realtime/ws';

import { BYTES_PER_MS, PITCH_HZ, chunks, loudness, pitch, silence, voiced } from './sound.mjs';

const HERE = path.dirname(fileURLToPath(import.meta.url));
const API_VERSION = '2025-04-01-preview';
// Far beyond what any step takes; a test that waits this long has failed.
const STEP_MS = 15_000;
const NAMES = (process.env.TRUNKLINE_SDK_TARGETS ?? 'direct,same,crossed').split(',');
const SERVER_VAD = { type: 'server_vad', threshold: 0.5, silence_duration_ms: 300 };

// The SDK takes addresses, keys and headers from the environment as well; the tests give their own.
for (const variable of Object.keys(process.env)) {
  if (/^(OPENAI_|AZURE_OPENAI_)/.test(variable)) delete process.env[variable];
}

// One way to open a connection each; `origin` is the https address of the terminator.
const CLIENTS = [
  {
    // `/openai/v1/realtime?model=`, header `api-key`.
    name: 'OpenAIRealtimeWS.azure',
    shape: 'ga',
    open: ({ origin, model, key, options }) =>
      OpenAIRealtimeWS.azure(
        new AzureOpenAI({ endpoint: origin, apiKey: key, apiVersion: API_VERSION, deployment: model }),
        { options },
      ),
  },
  {
    // The same path with the key as bearer, by way of a credential that is fetched.
    name: 'OpenAIRealtimeWS.azure with a token provider',
    shape: 'ga',
    open: ({ origin, model, key, options }) =>
      OpenAIRealtimeWS.azure(
        new AzureOpenAI({
          endpoint: origin,
          azureADTokenProvider: async () => key,
          apiVersion: API_VERSION,
          deployment: model,
        }),
        { options },
      ),
    bearerOnAzure: true,
  },
  {
    // `/v1/realtime?model=`, bearer.
    name: 'OpenAIRealtimeWS',
    shape: 'ga',
    open: async ({ origin, model, key, options }) =>
      new OpenAIRealtimeWS({ model, options }, new OpenAI({ baseURL: `${origin}/v1`, apiKey: key })),
  },
  {
    // `/openai/realtime?api-version=&deployment=`, header `api-key`, `OpenAI-Beta`.
    name: 'beta OpenAIRealtimeWS.azure',
    shape: 'preview',
    open: ({ origin, model, key, options }) =>
      BetaRealtimeWS.azure(
        new AzureOpenAI({ endpoint: origin, apiKey: key, apiVersion: API_VERSION, deployment: model }),
        { options },
      ),
  },
  {
    // The SDK before its seventh major version takes the preview path without saying `OpenAI-Beta`.
    name: 'version 6 OpenAIRealtimeWS.azure',
    shape: 'preview',
    open: ({ origin, model, key, options }) =>
      OpenAIRealtimeWS6.azure(
        new AzureOpenAI6({ endpoint: origin, apiKey: key, apiVersion: API_VERSION, deployment: model }),
        { options },
      ),
  },
];

let stack;
let certificate;

before(async () => {
  [stack, certificate] = await Promise.all([startStack(), makeCertificate()]);
});

after(async () => {
  for (const { server } of terminators.values()) server.close();
  stack?.process.stdin.end();
  await stack?.ended;
});

// The stand-ins and the gateway, as `stack.py` starts them.
async function startStack() {
  const child = spawn('python3', [path.join(HERE, 'stack.py')], { stdio: ['pipe', 'pipe', 'inherit'] });
  const ended = new Promise((resolve) => child.once('exit', resolve));
  const lines = readline.createInterface({ input: child.stdout });
  const first = await Promise.race([
    new Promise((resolve) => lines.once('line', resolve)),
    ended.then((status) => {
      throw new Error(`stack.py ended with status ${status}`);
    }),
  ]);
  return { process: child, ended, ...JSON.parse(first) };
}

function makeCertificate() {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'trunkline-tls-'));
  const [key, cert] = ['key.pem', 'cert.pem'].map((name) => path.join(folder, name));
  try {
    execFileSync(
      'openssl',
      ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '1',
        '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost', '-keyout', key, '-out', cert],
      { stdio: ['ignore', 'ignore', 'pipe'] },
    );
    return { key: readFileSync(key), cert: readFileSync(cert) };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

// The https origin that leads to a plain `host:port`; one terminator for each.
const terminators = new Map();

async function originOf(address) {
  if (!terminators.has(address)) {
    const [host, port] = address.split(':');
    const server = tls.createServer(certificate, (outside) => {
      const inside = net.connect(Number(port), host);
      inside.setNoDelay(true);
      outside.pipe(inside).pipe(outside);
      for (const [socket, other] of [[outside, inside], [inside, outside]]) {
        socket.on('error', () => other.destroy());
        socket.on('close', () => other.destroy());
      }
    });
    const ready = new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
    terminators.set(address, { server, ready });
  }
  const { server, ready } = terminators.get(address);
  await ready;
  return `https://localhost:${server.address().port}`;
}

// A conversation over an SDK connection: every event in order, and waiting for the next of a name.
class Talk {
  constructor(connection, shape) {
    this.connection = connection;
    this.shape = shape;
    this.events = [];
    this.read = 0;
    this.failure = null;
    this.wake = () => {};
    connection.on('event', (event) => {
      this.events.push(event);
      this.wake();
    });
    connection.on('error', (error) => {
      this.failure ??= error;
      this.wake();
    });
    connection.socket.on('close', (code, reason) => {
      this.closed = { code, reason: reason.toString() };
      this.wake();
    });
  }

  name(gaName) {
    if (this.shape === 'ga' || gaName.startsWith('response.output_item.')) return gaName;
    if (/^conversation\.item\.(added|done)$/.test(gaName)) return 'conversation.item.created';
    return gaName.replace('response.output_', 'response.');
  }

  send(event) {
    this.connection.send(event);
  }

  async until(gaName) {
    const wanted = this.name(gaName);
    const deadline = Date.now() + STEP_MS;
    for (;;) {
      while (this.read < this.events.length) {
        const event = this.events[this.read++];
        if (event.type === wanted) return event;
      }
      const seen = this.events.slice(-20).map((event) => event.type);
      if (this.failure) throw this.failure;
      assert(!this.closed, `closed with ${this.closed?.code} before ${wanted}; last ${seen}`);
      assert(Date.now() < deadline, `${wanted} never came; last ${seen}`);
      await Promise.race([
        new Promise((resolve) => (this.wake = resolve)),
        sleep(Math.max(1, deadline - Date.now()), undefined, { ref: false }),
      ]);
    }
  }

  of(gaName, responseId) {
    const wanted = this.name(gaName);
    return this.events.filter(
      (event) => event.type === wanted && (responseId === undefined || event.response_id === responseId),
    );
  }

  audio(responseId) {
    return Buffer.concat(
      this.of('response.output_audio.delta', responseId).map((event) => Buffer.from(event.delta, 'base64')),
    );
  }

  async configure({ vad = null, ...common }) {
    const first = await this.until('session.created');
    assert.equal(first, this.events[0], 'session.created comes before anything else');
    const session =
      this.shape === 'preview'
        ? { modalities: ['text', 'audio'], turn_detection: vad, ...common }
        : { type: 'realtime', output_modalities: ['audio'], audio: { input: { turn_detection: vad } }, ...common };
    this.send({ type: 'session.update', session });
    await this.until('session.updated');
  }

  async write(text) {
    const content = [{ type: 'input_text', text }];
    this.send({ type: 'conversation.item.create', item: { type: 'message', role: 'user', content } });
    await this.until('conversation.item.done');
  }

  // Appends as a microphone does, only faster; everything still passes the VAD sample by sample.
  async say(audio, timesRealTime = 10) {
    const started = performance.now();
    let sent = 0;
    for (const chunk of chunks(audio)) {
      this.send({ type: 'input_audio_buffer.append', audio: chunk });
      sent += 20;
      const ahead = sent / timesRealTime - (performance.now() - started);
      if (ahead >= 1) await sleep(ahead);
    }
  }

  async respond() {
    this.send({ type: 'response.create' });
    return this.done();
  }

  async done() {
    return (await this.until('response.done')).response;
  }
}

async function dial(client, where) {
  const origin = await originOf(where.address);
  const { model, key } = where;
  return client.open({ origin, model, key, options: { ca: certificate.cert } });
}

async function withCall(client, target, standIn, conversation) {
  const connection = await dial(client, stack.targets[`${target}/${client.shape}/${standIn}`]);
  const talk = new Talk(connection, client.shape);
  try {
    await conversation(talk);
  } finally {
    connection.close();
  }
}

for (const client of CLIENTS) {
  for (const target of NAMES) {
    // The stand-in takes a bearer on Azure's paths only if it looks like a token of Azure's.
    if (client.bearerOnAzure && target === 'direct') continue;
    describe(`${client.name}, ${target}`, () => {
      test('text in, audio out', () =>
        withCall(client, target, 'parrot', async (talk) => {
          await talk.configure({});
          await talk.write('Good morning.');
          const response = await talk.respond();
          assert.equal(response.status, 'completed');
          assert(response.usage.output_token_details.audio_tokens > 0);
          const audio = talk.audio(response.id);
          assert(audio.length >= 200 * BYTES_PER_MS);
          assert(loudness(audio) > 500);
          const spoken = talk.of('response.output_audio_transcript.delta').map((event) => event.delta);
          const [complete] = talk.of('response.output_audio_transcript.done');
          assert(complete.transcript);
          assert.equal(spoken.join(''), complete.transcript);
        }));

      test('speech in, with server VAD', () =>
        withCall(client, target, 'parrot', async (talk) => {
          await talk.configure({ vad: SERVER_VAD });
          await talk.say(Buffer.concat([silence(200), voiced(1_200), silence(800)]));
          const started = await talk.until('input_audio_buffer.speech_started');
          const stopped = await talk.until('input_audio_buffer.speech_stopped');
          const committed = await talk.until('input_audio_buffer.committed');
          assert.equal(started.item_id, stopped.item_id);
          assert.equal(started.item_id, committed.item_id);
          const response = await talk.done();
          assert.equal(response.status, 'completed');
          const reply = talk.audio(response.id);
          assert(reply.length >= 1_000 * BYTES_PER_MS);
          // The stand-in says back what it heard, so the caller's own voice must come home.
          assert(Math.abs(pitch(reply) / PITCH_HZ - 1) < 0.03, `pitch ${pitch(reply)}`);
        }));

      test('function call round trip', () =>
        withCall(client, target, 'script', async (talk) => {
          const parameters = { type: 'object', properties: { city: { type: 'string' } } };
          const tool = { type: 'function', name: stack.function, description: 'The weather.', parameters };
          await talk.configure({ tools: [tool], tool_choice: 'auto' });
          await talk.write('What is the weather like in Oslo?');
          const asked = await talk.respond();
          assert.equal(asked.status, 'completed');
          const item = asked.output.find(({ type }) => type === 'function_call');
          assert.equal(item.name, stack.function);
          assert.deepEqual(JSON.parse(item.arguments), stack.arguments);
          const [complete] = talk.of('response.function_call_arguments.done');
          assert.equal(complete.call_id, item.call_id);
          assert.equal(complete.arguments, item.arguments);

          const output = { type: 'function_call_output', call_id: item.call_id, output: '{"degrees":4}' };
          talk.send({ type: 'conversation.item.create', item: output });
          await talk.until('conversation.item.done');
          const answer = await talk.respond();
          assert.equal(answer.status, 'completed');
          assert(talk.audio(answer.id).length > 0);
        }));

      test('barge-in', () =>
        withCall(client, target, 'parrot', async (talk) => {
          await talk.configure({ vad: SERVER_VAD });
          await talk.say(Buffer.concat([voiced(3_500), silence(600)]), 20);
          const first = await talk.until('response.output_audio.delta');
          // The caller speaks while the model does: all at once, for the reply lasts under a second here.
          await talk.say(voiced(600), 1_000);
          await talk.until('input_audio_buffer.speech_started');
          const response = await talk.done();
          assert.equal(response.id, first.response_id);
          assert.equal(response.status, 'cancelled');
          assert.equal(response.status_details.reason, 'turn_detected');
          assert.equal(response.output[0].status, 'incomplete');

          const heard = Math.min(80, Math.floor(talk.audio(response.id).length / BYTES_PER_MS));
          const { item_id, content_index } = first;
          talk.send({ type: 'conversation.item.truncate', item_id, content_index, audio_end_ms: heard });
          const truncated = await talk.until('conversation.item.truncated');
          assert.equal(truncated.item_id, item_id);
          assert.equal(truncated.audio_end_ms, heard);

          // The interruption is a turn of its own and is answered.
          await talk.say(silence(800));
          const answer = await talk.done();
          assert.notEqual(answer.id, response.id);
          assert.equal(answer.status, 'completed');
          assert(talk.audio(answer.id).length > 0);
        }));

      test('a wrong key is refused', async () => {
        const where = stack.targets[`${target}/${client.shape}/parrot`];
        const connection = await dial(client, { ...where, key: 'wrong' });
        const error = await new Promise((resolve) => connection.on('error', resolve));
        connection.close();
        if (target === 'direct' && client.name === 'OpenAIRealtimeWS') {
          // The vendor's own way on this path: the upgrade succeeds, then an error.
          assert.equal(error.error.code, 'invalid_api_key');
        } else {
          assert.match(error.message, /401/);
        }
      });
    });
  }
}
