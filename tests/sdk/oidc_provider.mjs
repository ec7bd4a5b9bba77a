// A real OpenID provider on loopback, for the tests of callers' tokens: `oidc-provider` as it comes from its package.
//
// Prints one JSON line with its issuer, then obeys lines on standard input: `rotate` replaces all its keys, the end
// of input ends it. Access tokens are JWTs for the audience and by the algorithm that the path of the asked resource
// names: `https://voice.example/AUDIENCE/ALGORITHM`.
import { generateKeyPairSync, randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import Provider from "oidc-provider";

// It says on standard output what a deployment of it would still need; the tests read JSON there.
console.info = console.warn = console.log = () => {};

const RESOURCE = /^https:\/\/voice\.example\/([a-z]+)\/([A-Za-z0-9]+)$/;

function key(type, options, alg) {
  const { privateKey } = generateKeyPairSync(type, options);
  return { ...privateKey.export({ format: "jwk" }), kid: randomUUID(), use: "sig", alg };
}

function provider(issuer) {
  return new Provider(issuer, {
    jwks: {
      keys: [
        key("rsa", { modulusLength: 2048 }, "RS256"),
        key("rsa", { modulusLength: 2048 }, "PS256"),
        key("ec", { namedCurve: "P-256" }, "ES256"),
        key("ed25519", {}, "EdDSA"),
      ],
    },
    clients: [
      {
        client_id: "caller",
        client_secret: "caller-secret",
        grant_types: ["client_credentials"],
        redirect_uris: [],
        response_types: [],
        token_endpoint_auth_method: "client_secret_post",
      },
    ],
    extraTokenClaims: () => ({ tid: "acme" }),
    enabledJWA: { idTokenSigningAlgValues: ["RS256", "PS256", "ES256", "EdDSA"] },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_, resource) => {
          const [, audience, alg] = RESOURCE.exec(resource);
          return { scope: "call", audience, accessTokenFormat: "jwt", jwt: { sign: { alg } } };
        },
      },
    },
  }).callback();
}

let answer;
const server = createServer((request, response) => answer(request, response));
server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  answer = provider(issuer);
  process.stdout.write(`${JSON.stringify({ issuer })}\n`);
  createInterface({ input: process.stdin })
    .on("line", (line) => {
      if (line === "rotate") answer = provider(issuer);
      process.stdout.write(`${JSON.stringify({ done: line })}\n`);
    })
    .on("close", () => process.exit(0));
});
