// SPDX-License-Identifier: Apache-2.0
// LocalNode::Invoke: from a reservation to a report.
#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "control-plane/node/local_node.h"
#include "control-plane/node/local_node_impl.h"
#include "control-plane/node/names.h"
#include "control-plane/node/outcome.h"
#include "vmm/base/status.h"
#include "vmm/base/steady_clock.h"

namespace hearth::control {
namespace {

// When the machine was not the cause of its connection's end, it is ended, and that takes its time.
constexpr absl::Duration kKillTakes = absl::Seconds(2);

// As user code and the AWS clients in it know one.
std::string FunctionArn(const VersionDescription& version) {
  const VersionName name = ParseVersionName(version.name);
  return absl::StrCat("arn:hearth:lambda:local:", name.tenant, ":function:", name.function, ":",
                      name.number);
}

agent::v1::Invoke MakeInvoke(const VersionDescription& version, const InvocationRequest& request,
                             absl::Time begin) {
  agent::v1::Invoke invoke;
  invoke.set_invocation_id(request.id);
  invoke.set_timeout_ms(absl::ToInt64Milliseconds(version.timeout));
  invoke.set_deadline_unix_ms(absl::ToUnixMillis(WallTimeOf(begin + version.timeout)));
  invoke.set_content_type(request.content_type);
  invoke.set_function_arn(FunctionArn(version));
  invoke.set_trace_id(request.trace_parent);
  invoke.set_client_context(request.client_context);
  return invoke;
}

// Ends the instance when the deadline has passed, whatever its agent says or does.
class DeadlineGuard {
 public:
  DeadlineGuard(Timers* timers, std::shared_ptr<Instance> instance, absl::Duration delay)
      : timers_(timers), expired_(std::make_shared<std::atomic<bool>>(false)) {
    id_ = timers->After(delay, [expired = expired_, instance = std::move(instance)] {
      expired->store(true);
      instance->session()->Close(absl::DeadlineExceededError("the deadline has passed"));
      instance->Kill();
    });
  }
  ~DeadlineGuard() { timers_->Cancel(id_); }
  DeadlineGuard(const DeadlineGuard&) = delete;
  DeadlineGuard& operator=(const DeadlineGuard&) = delete;
  bool expired() const { return expired_->load(); }

 private:
  Timers* const timers_;
  const std::shared_ptr<std::atomic<bool>> expired_;
  Timers::Id id_;
};

struct Attempt {
  InvocationEnd end;
  absl::Time begin;
  absl::Time finish;
  absl::Duration cpu;
};

Attempt RunOnce(Instance& instance, const std::shared_ptr<Instance>& shared,
                const InstanceContext& context, const InvocationRequest& request,
                ResponseSink& response, const Cancellation& cancellation) {
  const VersionDescription& version = instance.description();
  Attempt attempt;
  attempt.end.timeout = version.timeout;
  const absl::Duration cpu_before = instance.CpuTime();
  attempt.begin = SteadyNow();
  instance.logs().BeginInvocation(request.id);
  SessionInvocation invocation;
  invocation.invoke = MakeInvoke(version, request, attempt.begin);
  if (instance.TakeStoodStill()) {
    invocation.invoke.set_wall_clock_unix_ns(absl::ToUnixNanos(absl::Now()));
  }
  invocation.payload = request.payload;
  invocation.max_response_bytes = context.config->max_response_bytes;
  invocation.cancel_grace = context.config->cancel_grace;
  {
    const DeadlineGuard guard(context.timers, shared,
                              version.timeout + context.config->timeout_grace);
    attempt.end.session = instance.session()->Invoke(std::move(invocation), response, cancellation);
    attempt.end.expired = guard.expired();
  }
  attempt.finish = SteadyNow();
  attempt.end.bounds = {attempt.finish - attempt.begin, instance.memory_mib()};
  if (!attempt.end.session.connection.ok()) {
    attempt.end.exit = instance.AwaitExit(SteadyNow() + kExitFollows);
    instance.Kill();
    if (!attempt.end.exit.has_value()) {
      attempt.end.exit = instance.AwaitExit(SteadyNow() + kKillTakes);
    }
  }
  attempt.cpu = std::max(instance.CpuTime() - cpu_before, absl::ZeroDuration());
  return attempt;
}

InvocationReport MakeReport(const HeldInstance& held, const InvocationRequest& request,
                            const Attempt& attempt, Verdict verdict) {
  const Instance& instance = *held.instance;
  InvocationReport report;
  report.content_type = std::move(verdict.content_type);
  hearth::v1::Invocation& invocation = report.invocation;
  invocation.set_name(
      absl::StrCat(FunctionNameOf(instance.version()), "/invocations/", request.id));
  invocation.set_version(instance.version());
  *invocation.mutable_start_time() = ToProto(WallTimeOf(request.arrival));
  *invocation.mutable_end_time() = ToProto(WallTimeOf(attempt.finish));
  invocation.set_outcome(verdict.outcome);
  if (verdict.error.has_value()) *invocation.mutable_error() = *std::move(verdict.error);
  invocation.set_start_kind(held.start_kind());
  invocation.set_instance(instance.name());
  invocation.set_guest_boot_id(instance.boot_id());

  hearth::v1::HostUsage& host = *invocation.mutable_usage()->mutable_host();
  host.set_wall_ns(absl::ToInt64Nanoseconds(attempt.finish - attempt.begin));
  host.set_cpu_ns(absl::ToInt64Nanoseconds(attempt.cpu));
  host.set_memory_mib(static_cast<int64_t>(instance.memory_mib()));
  host.set_request_bytes(static_cast<int64_t>(attempt.end.session.request_bytes));
  host.set_response_bytes(static_cast<int64_t>(attempt.end.session.response_bytes));
  host.set_boot_cpu_ns(absl::ToInt64Nanoseconds(held.boot_cpu));
  if (verdict.usage.has_value()) {
    *invocation.mutable_usage()->mutable_guest() = *std::move(verdict.usage);
  }
  const auto since_arrival = [&](absl::Time moment) {
    return ToProto(std::max(moment - request.arrival, absl::ZeroDuration()));
  };
  hearth::v1::Timing& timing = *invocation.mutable_timing();
  *timing.mutable_queued() = ToProto(held.queued);
  *timing.mutable_boot() = ToProto(held.boot);
  *timing.mutable_init() = ToProto(held.init);
  *timing.mutable_execution() = ToProto(attempt.finish - attempt.begin);
  if (held.kind == hearth::v1::RESTORED) {
    *timing.mutable_restore() = ToProto(held.restore);
    *timing.mutable_restore_load() = ToProto(held.restored.load);
    *timing.mutable_restore_machine() = ToProto(held.restored.machine);
    *timing.mutable_restore_agent() = ToProto(held.restored.agent);
    *timing.mutable_restore_identity() = ToProto(held.restored.identity);
    *timing.mutable_restore_hooks() = ToProto(held.restored.hooks);
    timing.set_resident(held.was_resident);
  }
  *timing.mutable_placed_at() = since_arrival(held.granted);
  *timing.mutable_handed_over_at() = since_arrival(attempt.begin);
  const absl::Time responded = attempt.end.session.first_byte;
  if (responded != absl::InfinitePast()) {
    *timing.mutable_responded_at() = since_arrival(responded);
  }
  if (held.kind != hearth::v1::WARM) {
    const MachineOrigin origin = instance.origin();
    *timing.mutable_vmm_ready() = ToProto(origin.ready);
    timing.set_waiting_vmm(origin.waited);
  }
  *timing.mutable_total() =
      ToProto(std::max(attempt.finish - request.arrival, absl::ZeroDuration()));
  return report;
}

}  // namespace

absl::StatusOr<InvocationReport> LocalNode::Invoke(std::unique_ptr<Reservation> reservation,
                                                   const InvocationRequest& request,
                                                   ResponseSink& response,
                                                   const Cancellation& cancellation) {
  // Every reservation of this node is one of these.
  std::unique_ptr<HeldInstance> held(static_cast<HeldInstance*>(reservation.release()));
  for (bool retried = false;; retried = true) {
    // An instance may have died since it was reserved. Nothing has reached it then, so another may
    // serve, once.
    absl::Status dead = held->instance->Wake();
    if (dead.ok()) {
      const Attempt attempt =
          RunOnce(*held->instance, held->instance, impl_->context, request, response, cancellation);
      Verdict verdict = Judge(attempt.end);
      if (verdict.not_started.ok()) {
        held->served = true;
        held->reusable = verdict.reusable;
        if (held->kind == hearth::v1::RESTORED && held->reusable) impl_->Record(held->instance);
        return MakeReport(*held, request, attempt, std::move(verdict));
      }
      held->reusable = false;
      dead = verdict.not_started;
    }
    held->reusable = false;
    if (retried || cancellation.cancelled()) return absl::UnavailableError(dead.message());
    const VersionPtr version = held->instance->version_ptr();
    held.reset();
    ASSIGN_OR_RETURN(
        held, impl_->Hold(version, SteadyNow() + impl_->config.queue_wait, nullptr, cancellation));
  }
}

}  // namespace hearth::control
