// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "hearth/agent/v1/agent.pb.h"
#include "vmm/base/unique_fd.h"
#include "wire/mux.h"

namespace hearth::agent {

// hearthd's side of a connection, for tests: everything that arrives is kept. Failures of the
// connection fail the test.
class TestHost : public wire::MuxDelegate {
 public:
  explicit TestHost(UniqueFd connection);

  // Another host on the same connection, which says Hello in this one's place.
  std::unique_ptr<TestHost> Successor() const;
  void SayHelloAgain();

  // Sends the call and waits for its reply.
  agent::v1::Reply Call(const agent::v1::Call& call);
  uint64_t Send(const agent::v1::Call& call);
  agent::v1::Reply WaitReply(uint64_t call_id);

  uint32_t NewStream() { return mux_.NextStreamId(); }
  // Sends all of it, as the credit comes, then ends the stream.
  void Write(uint32_t stream_id, const std::string& data, bool end = true);
  // Waits for the end of a stream; what came on it.
  std::string ReadAll(uint32_t stream_id);
  // From now on takes what comes, and grants no credit for more.
  void WithholdCredit() { grants_credit_ = false; }
  // What came on a stream until now.
  std::string Received(uint32_t stream_id) { return data_[stream_id]; }
  // Writes what there is, and waits for something to read.
  void Step();
  void WaitFor(const std::function<bool()>& condition);

  wire::Mux& mux() { return mux_; }
  const agent::v1::Hello& hello() const { return hello_; }
  bool aborted(uint32_t stream_id) const { return ends_.at(stream_id); }
  const std::vector<agent::v1::Event>& events() const { return events_; }
  // The log lines of one request, each with its newline.
  std::string Logs(const std::string& request_id) const;
  uint64_t dropped_log_lines() const;

  void OnReady(const agent::v1::Hello& peer, uint32_t version) override;
  void OnReply(agent::v1::Reply reply) override;
  void OnEvent(agent::v1::Event event) override;
  void OnStreamData(uint32_t stream_id, absl::string_view data) override;
  void OnStreamEnd(uint32_t stream_id, bool aborted, absl::string_view reason) override;

 private:
  UniqueFd connection_;
  wire::Mux mux_;
  agent::v1::Hello hello_;
  std::map<uint64_t, agent::v1::Reply> replies_;
  std::vector<agent::v1::Event> events_;
  std::map<uint32_t, std::string> data_;
  std::map<uint32_t, bool> ends_;
  bool grants_credit_ = true;
};

// An agent in a child process of its own mount namespace, with a cgroup tree of its own, connected
// to `host`. User code runs in the host's root, as uid kUserId.
class TestAgent {
 public:
  // It can dial `redials` times; a dial above them fails.
  explicit TestAgent(int redials = 4);
  ~TestAgent();
  // False when this machine cannot (not root, no cgroup2): the test is to be skipped.
  static bool Possible();
  TestHost& host() { return *host_; }
  // After ConfigureInstance with `limits`.
  void Configure(const agent::v1::ResourceLimits& limits = {});
  // Breaks the connection and waits for the one that a parked agent makes then.
  void Reconnect();
  void Break() { host_.reset(); }
  // Another host goes on with the same connection.
  void TakeOver() { host_ = host_->Successor(); }
  // Of the agent's cgroup, from outside.
  void KillUserCode();
  bool Frozen() const;
  // Waits for the child's end, as after Shutdown; its exit status.
  int WaitForEnd();

 private:
  std::string CgroupFile(const std::string& name) const;
  pid_t pid_ = 0;
  std::string directory_;
  std::unique_ptr<TestHost> host_;
  std::vector<UniqueFd> redials_;  // Our ends; the last is the next.
};

}  // namespace hearth::agent
