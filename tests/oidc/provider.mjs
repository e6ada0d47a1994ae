// A real OpenID provider on loopback, for the tests: client_credentials tokens as JWTs (RFC 9068), by oidc-provider.
//
//   node provider.mjs [--port PORT] [--keys FILE] [--tls FOLDER]
//
// When it listens it prints one line of JSON: {"issuer": …, "port": …}. It ends when its standard input does, so it
// never outlives the test that started it.
//
// --port   where to listen on 127.0.0.1; 0, the default, takes a free port
// --keys   where the signing keys are kept, so that a provider that is started again still has them
// --tls    by https on localhost: server.pem and server.key show who it is, ca.pem who signs its clients' certificates.
//          Then every token is bound to the certificate of whoever asks for it (RFC 8705 §3)
//
// Tokens are asked for with a resource indicator (RFC 8707), `https://NAME.example/ALG`: `aud` is then
// `https://NAME.example`, and ALG, one of RS256, ES256 and EdDSA, signs; or they are opaque, where ALG is opaque. With a
// DPoP proof they are bound to its key.
//
// The clients `tollgate-basic` and `tollgate-post` may ask about tokens (RFC 7662), each by its own authentication; with
// --tls so may `tollgate-mtls`, by a certificate for `tollgate.example` (RFC 8705 §2.1). Any client may take its own tokens
// back (RFC 7009).
//
// People log in at the client `shop` (any name, any password), and by an access token of theirs may ask for orders; the
// client is there once it is said where their logouts are told.
//
// Beside the provider's own endpoints there are some for the test's hand:
//   POST /control/rotate?keep=true   new signing keys; the old ones stay published, or go with keep=false
//   POST /control/lifetime?seconds=N how long tokens live from now on
//   POST /control/logout?uri=U&session=true where logouts are told (OpenID Connect Back-Channel Logout), with `sid`, which
//                                    tokens have then, too, or with session=false without

import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

import Provider, { errors } from 'oidc-provider';

const ADDRESS = '127.0.0.1';
const SCOPES = 'orders:read orders:write';

/** Who may ask for tokens. A client's id is its tokens' `sub`, too. */
const CLIENTS = {
  'orders-reader': { scope: 'orders:read', roles: ['USER'] },
  'orders-writer': { scope: SCOPES, roles: ['USER'] },
  'orders-admin': { scope: SCOPES, roles: ['USER', 'ADMIN'] },
  'orders-nobody': { scope: 'orders:read', roles: [] },
};

/** Who may only ask about tokens, and how each of them says who it is. */
const ASKERS = { 'tollgate-basic': 'client_secret_basic', 'tollgate-post': 'client_secret_post' };

/** Who asks by a certificate. */
const SECURE_ASKER = {
  client_id: 'tollgate-mtls',
  grant_types: [],
  redirect_uris: [],
  response_types: [],
  token_endpoint_auth_method: 'tls_client_auth',
  tls_client_auth_san_dns: 'tollgate.example',
};

/** How certificates are read from the connections that show them. */
const MTLS = {
  enabled: true,
  certificateBoundAccessTokens: true,
  tlsClientAuth: true,
  getCertificate: ({ socket }) => socket.getPeerX509Certificate(),
  certificateAuthorized: ({ socket }) => socket.authorized,
  certificateSubjectMatches: ({ socket }, property, expected) =>
    property === 'tls_client_auth_san_dns' && socket.getPeerX509Certificate().subjectAltName === `DNS:${expected}`,
};

/**
 * One new key per algorithm. They are asked for as JWKs: a key object of Node 20 that has just been generated and is
 * exported as one stands still for ever when memory happens to be collected meanwhile.
 */
function newKeys() {
  const forms = { publicKeyEncoding: { format: 'jwk' }, privateKeyEncoding: { format: 'jwk' } };
  const pairs = {
    RS256: generateKeyPairSync('rsa', { modulusLength: 2048, ...forms }),
    ES256: generateKeyPairSync('ec', { namedCurve: 'P-256', ...forms }),
    EdDSA: generateKeyPairSync('ed25519', forms),
  };
  return Object.entries(pairs).map(([alg, { privateKey }]) => ({
    ...privateKey,
    alg,
    use: 'sig',
    kid: `${alg}-${randomUUID()}`,
  }));
}

function oldKeys(file) {
  return file !== undefined && existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : undefined;
}

function keep(keys, file) {
  if (file !== undefined) {
    writeFileSync(file, JSON.stringify(keys), { mode: 0o600 });
  }
}

/** The resource that an indicator stands for: whom its tokens are for, and which algorithm signs them. */
function resourceOf(indicator, lifetime) {
  const [, audience, alg] = /^(https:\/\/[a-z0-9-]+\.example)\/(RS256|ES256|EdDSA|opaque)$/.exec(indicator) ?? [];
  if (audience === undefined) {
    throw new errors.InvalidTarget('a resource is https://NAME.example/ALG, with RS256, ES256, EdDSA or opaque');
  }
  if (alg === 'opaque') {
    return { audience, scope: SCOPES, accessTokenFormat: 'opaque', accessTokenTTL: lifetime };
  }
  return { audience, scope: SCOPES, accessTokenFormat: 'jwt', accessTokenTTL: lifetime, jwt: { sign: { alg } } };
}

/** Where people log in; none where nobody listens to their logouts. */
function shop({ logout }) {
  return logout === undefined ? [] : [{
    client_id: 'shop',
    client_secret: 'secret of shop',
    grant_types: ['authorization_code'],
    redirect_uris: ['https://shop.example/callback'],
    response_types: ['code'],
    scope: `openid ${SCOPES}`,
    token_endpoint_auth_method: 'client_secret_post',
    backchannel_logout_uri: logout.uri,
    backchannel_logout_session_required: logout.session,
  }];
}

function providerOf(issuer, keys, state) {
  return new Provider(issuer, {
    clients: [...shop(state), ...Object.entries(CLIENTS).map(([id, { scope }]) => ({
      client_id: id,
      client_secret: `secret of ${id}`,
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
      scope,
      token_endpoint_auth_method: 'client_secret_post',
      ...(state.tls && { tls_client_certificate_bound_access_tokens: true }),
    })), ...Object.entries(ASKERS).map(([id, method]) => ({
      client_id: id,
      client_secret: `secret of ${id}`,
      grant_types: [],
      redirect_uris: [],
      response_types: [],
      token_endpoint_auth_method: method,
    })), ...(state.tls ? [SECURE_ASKER] : [])],
    clientAuthMethods: [...Object.values(ASKERS), ...(state.tls ? [SECURE_ASKER.token_endpoint_auth_method] : [])],
    cookies: { keys: [randomUUID()] },
    // Ahead of the keys that it keeps, a new one signs: the first that fits is taken.
    jwks: { keys },
    scopes: SCOPES.split(' '),
    enabledJWA: { idTokenSigningAlgValues: ['RS256', 'ES256', 'EdDSA'] },
    extraTokenClaims: (_ctx, token) => ({ roles: CLIENTS[token.clientId]?.roles, sid: token.sid }),
    // Its own refuses to tell anything to this machine.
    fetch: (url, { dispatcher: _, ...options }) => fetch(url, options),
    features: {
      backchannelLogout: { enabled: true },
      clientCredentials: { enabled: true },
      devInteractions: { enabled: true },
      dPoP: { enabled: true },
      introspection: { enabled: true },
      ...(state.tls && { mTLS: MTLS }),
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_ctx, indicator) => resourceOf(indicator, state.lifetime),
      },
    },
    ttl: { ClientCredentials: (_ctx, token) => token.resourceServer?.accessTokenTTL ?? state.lifetime },
  });
}

const { values: options } = parseArgs({
  options: { port: { type: 'string', default: '0' }, keys: { type: 'string' }, tls: { type: 'string' } },
});
const state = { lifetime: 600, keys: oldKeys(options.keys) ?? newKeys(), tls: options.tls !== undefined };
keep(state.keys, options.keys);

let issuer;
let answer;

/** The provider takes its keys when it is made, so new keys mean a new one, at the same place. */
function publish(keys) {
  state.keys = keys;
  keep(keys, options.keys);
  answer = providerOf(issuer, keys, state).callback();
}

const control = {
  '/control/rotate': (query) => {
    publish(query.get('keep') === 'false' ? newKeys() : [...newKeys(), ...state.keys]);
  },
  '/control/lifetime': (query) => {
    const seconds = Number(query.get('seconds'));
    if (!Number.isInteger(seconds) || seconds < 1) {
      throw new RangeError('seconds must be a whole number, at least 1');
    }
    state.lifetime = seconds;
  },
  '/control/logout': (query) => {
    state.logout = { uri: query.get('uri'), session: query.get('session') === 'true' };
    publish(state.keys);
  },
};

function hear(request, response) {
  const { pathname, searchParams } = new URL(request.url, issuer);
  const command = control[pathname];
  if (command === undefined) {
    answer(request, response);
    return;
  }
  if (request.method !== 'POST') {
    response.writeHead(405).end();
    return;
  }
  try {
    command(searchParams);
    response.writeHead(204).end();
  } catch (error) {
    response.writeHead(400, { 'content-type': 'text/plain' }).end(`${error.message}\n`);
  }
}

/** A certificate need not be shown, nor be known: the provider looks at it where it counts. */
function secureServer(folder) {
  const [cert, key, ca] = ['server.pem', 'server.key', 'ca.pem'].map((name) => readFileSync(join(folder, name)));
  return createSecureServer({ cert, key, ca, requestCert: true, rejectUnauthorized: false }, hear);
}

const server = state.tls ? secureServer(options.tls) : createServer(hear);

server.on('error', (error) => {
  console.error(`cannot listen on ${ADDRESS}:${options.port}: ${error.message}`);
  process.exit(1);
});

server.listen({ host: ADDRESS, port: Number(options.port) }, () => {
  const { port } = server.address();
  issuer = state.tls ? `https://localhost:${port}` : `http://${ADDRESS}:${port}`;
  publish(state.keys);
  console.log(JSON.stringify({ issuer, port }));
});

process.stdin.on('end', () => process.exit(0)).resume();
