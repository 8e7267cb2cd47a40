// A client of 2021: @grpc/grpc-js with the published protos, loaded at run time, and a websocket.
// node client.js PROTOS OWN_GRPC OTHER_GRPC OTHER_HTTP OTHER_PUBKEY → one JSON object on standard output
const path = require("path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");
const WebSocket = require("ws");

const [protos, own, other, otherHttp, pubkey] = process.argv.slice(2);
const credentials = grpc.credentials.createInsecure();

function client(address, file, name) {
  const definition = loader.loadSync(path.join(protos, `${file}.proto`), { keepCase: true, longs: String });
  const loaded = grpc.loadPackageDefinition(definition)[file];
  return new loaded[name](address, credentials);
}

function call(stub, method, request) {
  return new Promise((resolve, reject) => stub[method](request, (error, reply) => (error ? reject(error) : resolve(reply))));
}

function firstEvent(stream, wanted) {
  return new Promise((resolve, reject) => {
    stream.on("data", (event) => wanted(event) && resolve(event));
    stream.on("error", reject);
  });
}

function websocketEvent(socket, wanted) {
  return new Promise((resolve, reject) => {
    socket.on("message", (frame) => {
      const event = JSON.parse(frame.toString()).result;
      if (wanted(event)) resolve(event);
    });
    socket.on("error", reject);
  });
}

async function main() {
  const stream = client(other, "websocket", "Websocket").Subscribe({});
  await new Promise((resolve) => stream.on("metadata", resolve));
  const socket = new WebSocket(`ws://${otherHttp}/v1/subscribe`);
  await new Promise((resolve) => socket.on("open", resolve));
  socket.send("something");
  const body = Buffer.from("from JavaScript");
  const isOurs = (encoding) => (event) => body.equals(Buffer.from(event.data, encoding));
  const events = [firstEvent(stream, isOurs()), websocketEvent(socket, isOurs("base64"))];
  const message = { msg: body, pubkey, amount: 3 };
  const sent = await call(client(own, "messaging", "Messaging"), "SendMessage", message);
  const [event, frame] = await Promise.all(events);
  stream.on("error", () => {});
  stream.cancel();
  socket.close();
  const signing = client(own, "signing", "Signing");
  const { signature } = await call(signing, "SignMessage", { msg: "hello" });
  const verified = await call(signing, "VerifySignature", { msg: "hello", signature });
  const payee = client(other, "lightning", "Lightning");
  const { invoice } = await call(payee, "GenerateInvoice", { amount: 5, memo: "from JavaScript" });
  const { preimage } = await call(client(own, "lightning", "Lightning"), "PayInvoice", { invoice });
  const checked = await call(payee, "CheckInvoice", { invoice });
  console.log(
    JSON.stringify({
      id: sent.id,
      event: { ...event, data: event.data.toString() },
      frame,
      result: verified.result,
      preimage: preimage.length,
      paid: checked.paid,
    }),
  );
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
