// The project's own copy of the function in UserHub's guide: the same request with the same time limit of 2 s, but for the
// body, which the guide forgets. Under it is as little of a Lambda runtime as there can be.

import http from 'node:http';

const {
  USERHUB_BASE_URL, USERHUB_ADMIN_KEY, AMAZON_COGNITO_CONNECTION_ID, AWS_LAMBDA_RUNTIME_API,
} = process.env;

async function handler(event) {
  const user = encodeURIComponent(event.userName);
  try {
    const response = await fetch(`${USERHUB_BASE_URL}/admin/v1/users/${user}@${AMAZON_COGNITO_CONNECTION_ID}:event`, {
      method: 'POST',
      headers: { authorization: `Bearer ${USERHUB_ADMIN_KEY}`, 'content-type': 'application/json' },
      body: JSON.stringify({ type: 'SIGNIN' }),
      redirect: 'manual',
      signal: AbortSignal.timeout(2000),
    });
    await response.text(); // so that the connection can be used again
    console.log(JSON.stringify({ outcome: response.ok ? 'reported' : 'not_reported', status: response.status }));
  } catch (error) {
    console.log(JSON.stringify({ outcome: 'not_reported', error: error.name }));
  }
  return event;
}

const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });

function call(method, path, body) {
  return new Promise((resolve, reject) => {
    const request = http.request(`http://${AWS_LAMBDA_RUNTIME_API}/2018-06-01/runtime/invocation/${path}`, { method, agent });
    request.on('error', reject).on('response', (response) => {
      const chunks = [];
      response.on('data', (chunk) => chunks.push(chunk)).on('error', reject);
      response.on('end', () => resolve({ headers: response.headers, body: Buffer.concat(chunks) }));
    });
    request.end(body);
  });
}

for (;;) {
  const { headers, body } = await call('GET', 'next');
  const answer = JSON.stringify(await handler(JSON.parse(body)));
  await call('POST', `${headers['lambda-runtime-aws-request-id']}/response`, answer);
}
