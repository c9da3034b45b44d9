// A stock Node.js client: reads {address, proto, calls: [{request, metadata, deadline_ms}]} from stdin, makes all the
// calls at once on one connection, and prints one JSON array of {response} or {code, details}, in order.
'use strict'

const grpc = require('@grpc/grpc-js')
const loader = require('@grpc/proto-loader')

const input = JSON.parse(require('fs').readFileSync(0, 'utf8'))
const definition = loader.loadSync(input.proto, { keepCase: true, longs: Number, defaults: true })
const { Recommender } = grpc.loadPackageDefinition(definition)
const client = new Recommender(input.address, grpc.credentials.createInsecure())

function call ({ request, metadata = {}, deadline_ms: deadlineMs = 30000 }) {
  const headers = new grpc.Metadata()
  for (const [key, value] of Object.entries(metadata)) {
    headers.set(key, key.endsWith('-bin') ? Buffer.from(value, 'utf8') : value)
  }
  return new Promise((resolve) => {
    client.Recommend(request, headers, { deadline: Date.now() + deadlineMs }, (error, response) => {
      resolve(error ? { code: error.code, details: error.details } : { response })
    })
  })
}

Promise.all(input.calls.map(call)).then((answers) => {
  client.close()
  process.stdout.write(JSON.stringify(answers))
})
