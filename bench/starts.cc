// SPDX-License-Identifier: Apache-2.0
#include "bench/starts.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace hearth::bench {
namespace {

namespace v1 = hearth::v1;

double InMs(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) * 1e3 + duration.nanos() / 1e6;
}

int64_t UnixNs(const google::protobuf::Timestamp& time) {
  return time.seconds() * 1'000'000'000 + time.nanos();
}

void AddRestore(const v1::Timing& timing, double at, Sample* sample) {
  (*sample)["loaded_ms"] = at += InMs(timing.restore_load());
  (*sample)["vmm_ready_ms"] = at + InMs(timing.vmm_ready());
  (*sample)["resumed_ms"] = at += InMs(timing.restore_machine());
  (*sample)["agent_ms"] = at += InMs(timing.restore_agent());
  (*sample)["identity_ms"] = at + InMs(timing.restore_identity());
}

void AddBoot(const v1::Timing& timing, double at, Sample* sample) {
  (*sample)["vmm_ready_ms"] = at + InMs(timing.vmm_ready());
  (*sample)["booted_ms"] = at += InMs(timing.boot());
  (*sample)["initialised_ms"] = at + InMs(timing.init());
}

}  // namespace

const std::vector<Station> kStations = {
    {"gateway_in_ms", "hearthd has the first byte"},
    {"placed_ms", "payload read, an instance reserved"},
    {"loaded_ms", "snapshot in memory"},
    {"vmm_ready_ms", "VMM process ready"},
    {"booted_ms", "booted, agent configured"},
    {"initialised_ms", "function initialised"},
    {"resumed_ms", "machine resumed"},
    {"agent_ms", "agent's Hello"},
    {"identity_ms", "an identity of its own, hooks run"},
    {"handed_over_ms", "invocation handed over"},
    {"handler_entry_ms", "handler entered"},
    {"handler_exit_ms", "handler done, first byte back"},
    {"outcome_ms", "hearthd has the outcome"},
    {"reply_ms", "last byte at the client"},
};

const char* NameOf(Mode mode) {
  switch (mode) {
    case Mode::kColdBoot:
      return "cold-boot";
    case Mode::kColdDisk:
      return "cold-disk";
    case Mode::kStore:
      return "store";
    case Mode::kResident:
      return "resident";
    case Mode::kWaiting:
      return "waiting";
    case Mode::kRestored:
      return "restored";
    case Mode::kWarm:
      return "warm";
  }
  return "";
}

absl::StatusOr<Mode> ModeOf(absl::string_view name) {
  std::string names;
  for (const Mode mode : kModes) {
    if (name == NameOf(mode)) return mode;
    absl::StrAppend(&names, names.empty() ? "" : ", ", NameOf(mode));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("there is no mode \"", name, "\"; there are ", names));
}

std::string DescribeStart(const v1::Invocation& invocation) {
  const v1::Timing& timing = invocation.timing();
  const char* vmm = timing.waiting_vmm() ? "into a waiting VMM" : "into a new VMM process";
  switch (invocation.start_kind()) {
    case v1::WARM:
      return "warm";
    case v1::COLD:
      return absl::StrCat("booted ", vmm);
    case v1::RESTORED:
      return absl::StrCat("restored, memory ", timing.resident() ? "resident" : "from the store",
                          ", ", vmm);
    default:
      return "of no known kind";
  }
}

absl::Status CheckStart(Mode mode, const v1::Invocation& invocation) {
  const v1::Timing& timing = invocation.timing();
  bool right = false;
  switch (mode) {
    case Mode::kWarm:
      right = invocation.start_kind() == v1::WARM;
      break;
    case Mode::kColdBoot:
      right = invocation.start_kind() == v1::COLD && !timing.waiting_vmm();
      break;
    case Mode::kRestored:
      right = invocation.start_kind() == v1::RESTORED;
      break;
    default:
      right = invocation.start_kind() == v1::RESTORED &&
              timing.resident() == (mode == Mode::kResident || mode == Mode::kWaiting) &&
              timing.waiting_vmm() == (mode == Mode::kWaiting);
  }
  if (right) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("for ", NameOf(mode), " the start was ", DescribeStart(invocation)));
}

Sample StationsOf(const Reply& reply) {
  const v1::Invocation& invocation = reply.invocation;
  const v1::Timing& timing = invocation.timing();
  Sample sample;
  const double gateway =
      static_cast<double>(UnixNs(invocation.start_time()) - reply.sent_unix_ns) / 1e6;
  const double placed = gateway + InMs(timing.placed_at());
  sample["gateway_in_ms"] = gateway;
  sample["placed_ms"] = placed;
  if (invocation.start_kind() == v1::RESTORED) AddRestore(timing, placed, &sample);
  if (invocation.start_kind() == v1::COLD) AddBoot(timing, placed, &sample);
  const double handed_over = gateway + InMs(timing.handed_over_at());
  sample["handed_over_ms"] = handed_over;
  if (timing.has_responded_at()) {
    const double done = gateway + InMs(timing.responded_at());
    const double ran = static_cast<double>(invocation.usage().guest().wall_ns()) / 1e6;
    // The guest counts by a clock of its own: only how long, not when.
    sample["handler_entry_ms"] = std::max(done - ran, handed_over);
    sample["handler_exit_ms"] = done;
  }
  sample["outcome_ms"] = handed_over + InMs(timing.execution());
  sample["reply_ms"] = reply.reply_ms;
  const v1::HostUsage& host = invocation.usage().host();
  sample["vmm_cpu_ms"] = static_cast<double>(host.cpu_ns() + host.boot_cpu_ns()) / 1e6;
  return sample;
}

}  // namespace hearth::bench
