// SPDX-License-Identifier: Apache-2.0
// A function on an agent of this machine, for tests.
#pragma once

#include <stdlib.h>
#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "agent/testing/test_host.h"

namespace hearth::agent {

// The interpreter with our bootstrap.
inline std::vector<std::string> Python() {
  return {"/usr/bin/python3", "-B", absl::StrCat(HEARTH_PYTHON_RUNTIME, "/bootstrap.py")};
}

// A folder that user code can read, gone at the end.
struct Folder {
  Folder() {
    char name[] = "/tmp/hearth-function-XXXXXX";
    path = mkdtemp(name);
    chmod(path.c_str(), 0755);
  }
  ~Folder() { REQUIRE(system(absl::StrCat("rm -r ", path).c_str()) == 0); }
  std::string Add(const std::string& name, const std::string& text) const {
    std::string file = absl::StrCat(path, "/", name);
    std::ofstream(file) << text;
    chmod(file.c_str(), 0755);
    return file;
  }
  std::string path;
};

struct Invoked {
  agent::v1::InvocationResult result;
  std::string response;
  bool aborted = false;
};

// A function on an agent: StartRuntime done, ready to be invoked.
class Function {
 public:
  Function(agent::v1::StartRuntime::Interface interface, const std::vector<std::string>& arguments,
           std::string handler = "", std::string task_root = "/tmp",
           uint64_t max_response_bytes = 0, int64_t init_timeout_ms = 10'000,
           bool snapshot = false) {
    agent.Configure();
    agent::v1::StartRuntime* const start = call_.mutable_start_runtime();
    start->set_interface(interface);
    for (const std::string& argument : arguments) start->mutable_process()->add_arguments(argument);
    start->mutable_process()->set_working_directory(task_root);
    (*start->mutable_process()->mutable_environment())["LAMBDA_TASK_ROOT"] = task_root;
    start->set_handler(handler);
    start->set_init_timeout_ms(init_timeout_ms);
    start->set_max_response_bytes(max_response_bytes);
    start->set_snapshot(snapshot);
    started = Start();
  }
  agent::v1::RuntimeStarted Start() {
    const agent::v1::Reply reply = host().Call(call_);
    INFO(reply.error().message());
    REQUIRE(reply.has_runtime_started());
    return reply.runtime_started();
  }
  TestHost& host() { return agent.host(); }

  struct Pending {
    uint64_t call_id = 0;
    uint32_t request = 0;
    uint32_t response = 0;
  };
  Pending Send(const std::string& id, const std::string& payload, int64_t timeout_ms = 30'000,
               const std::string& content_type = "") {
    Pending pending{.request = host().NewStream(), .response = host().NewStream()};
    agent::v1::Call call;
    agent::v1::Invoke* const invoke = call.mutable_invoke();
    invoke->set_invocation_id(id);
    invoke->set_timeout_ms(timeout_ms);
    invoke->set_deadline_unix_ms(1'900'000'000'000);
    invoke->set_request_stream(pending.request);
    invoke->set_response_stream(pending.response);
    invoke->set_content_type(content_type);
    pending.call_id = host().Send(call);
    host().Write(pending.request, payload);
    return pending;
  }
  Invoked Finish(const Pending& pending) {
    const agent::v1::Reply reply = host().WaitReply(pending.call_id);
    INFO(reply.error().message());
    REQUIRE(reply.has_invocation_result());
    Invoked invoked;
    invoked.result = reply.invocation_result();
    invoked.response = host().ReadAll(pending.response);
    invoked.aborted = host().aborted(pending.response);
    // A response is whole if and only if the invocation succeeded.
    REQUIRE(invoked.aborted == (invoked.result.outcome() != agent::v1::OUTCOME_SUCCEEDED));
    return invoked;
  }
  Invoked Invoke(const std::string& id, const std::string& payload, int64_t timeout_ms = 30'000,
                 const std::string& content_type = "") {
    return Finish(Send(id, payload, timeout_ms, content_type));
  }

  TestAgent agent;
  agent::v1::RuntimeStarted started;

 private:
  agent::v1::Call call_;
};

}  // namespace hearth::agent
