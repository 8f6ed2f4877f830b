// grpc-js against a server: node grpc.js HOST:PORT DIRECTORY_OF_PROTOS. Prints what it got as JSON.
"use strict";
const path = require("path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, protos] = process.argv.slice(2);
const definition = loader.loadSync(path.join(protos, "grpc_service.proto"), { keepCase: true, includeDirs: [protos] });
const { GRPCInferenceService } = grpc.loadPackageDefinition(definition).inference;
const insecure = grpc.credentials.createInsecure();
const client = new GRPCInferenceService(address, insecure);
const zipped = new GRPCInferenceService(address, insecure, {
  "grpc.default_compression_algorithm": grpc.compressionAlgorithms.gzip,
});

const call = (method, request, options = {}, on = client) =>
  new Promise((resolve) => on[method](request, options, (error, answer) => resolve(error || answer)));
const floats = (values) => Buffer.from(new Float32Array(values).buffer);
const typed = (values) => ({
  model_name: "matrix",
  inputs: [{ name: "X", datatype: "FP32", shape: [values.length / 3, 3], contents: { fp32_contents: values } }],
});
const raw = (values) => ({
  model_name: "matrix",
  inputs: [{ name: "X", datatype: "FP32", shape: [values.length / 3, 3] }],
  raw_input_contents: [floats(values)],
});
const sum = (answer) => {
  const place = answer.outputs.findIndex((output) => output.name === "sum");
  const data = answer.raw_output_contents[place];
  return Array.from({ length: data.length / 4 }, (_, i) => data.readFloatLE(4 * i));
};
const told = (error) => ({
  code: error.code,
  details: error.details,
  has_details: Boolean(error.metadata && error.metadata.get("grpc-status-details-bin").length),
});
const slow = { model_name: "sleeper", inputs: [{ name: "seconds", datatype: "FP32", shape: [1] }] };
slow.raw_input_contents = [floats([1])];

const streamed = () =>
  new Promise((resolve, reject) => {
    const found = [];
    const stream = client.ModelStreamInfer();
    stream.on("data", (answer) => found.push(sum(answer.infer_response)));
    stream.on("error", reject);
    stream.on("end", () => resolve(found));
    for (let i = 0; i < 50; i++) stream.write(raw([i, i, i]));
    stream.end();
  });
const cancelled = () =>
  new Promise((resolve) => {
    const begun = client.ModelInfer(slow, (error) => resolve(told(error)));
    setTimeout(() => begun.cancel(), 50);
  });

(async () => {
  const rows = [1, 2, 3, 4, 5, 6];
  const found = {
    ready: await call("ServerReady", {}),
    typed: sum(await call("ModelInfer", typed(rows))),
    raw: sum(await call("ModelInfer", raw(rows))),
    compressed: sum(await call("ModelInfer", raw(rows), {}, zipped)),
    bad: told(await call("ModelInfer", raw([-1, 2, 3]))),
    late: told(await call("ModelInfer", slow, { deadline: Date.now() + 100 })),
    cancelled: await cancelled(),
    stream: await streamed(),
  };
  console.log(JSON.stringify(found));
  client.close();
  zipped.close();
})();
