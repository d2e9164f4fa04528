// SPDX-License-Identifier: Apache-2.0
// A custom runtime in C++: asks the AWS Lambda Runtime API for one invocation after another and
// answers each with the payload's SHA-256. The same file works wherever that API is served.
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "examples/hash/digest.h"
#include "examples/hash/http_client.h"

namespace {

const std::string kBase = "/2018-06-01/runtime/";

void ServeOne(HttpClient& api) {
  const HttpResponse next = api.Get(kBase + "invocation/next");
  const auto id = next.headers.find("lambda-runtime-aws-request-id");
  if (next.status != 200 || id == next.headers.end()) {
    throw std::runtime_error("invocation/next answered " + std::to_string(next.status));
  }
  const std::string result = DescribePayload(next.body);
  std::fprintf(stderr, "hashed %zu bytes\n", next.body.size());
  const HttpResponse accepted =
      api.Post(kBase + "invocation/" + id->second + "/response", "application/json", result);
  if (accepted.status != 202) {
    throw std::runtime_error("the response was answered " + std::to_string(accepted.status) + " " +
                             accepted.body);
  }
}

}  // namespace

int main() {
  const char* address = std::getenv("AWS_LAMBDA_RUNTIME_API");
  if (address == nullptr) {
    std::fputs("AWS_LAMBDA_RUNTIME_API is not set: this program runs as a function\n", stderr);
    return 2;
  }
  try {
    // OpenSSL makes itself ready with its first digest. Now, that is in the snapshot of this
    // program that is taken while it waits, and not in every start.
    DescribePayload("");
    HttpClient api(address);
    for (;;) ServeOne(api);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
