// SPDX-License-Identifier: Apache-2.0
// `hearth logs`: what a function printed, oldest first; with -f, what it prints from now on.
#include <ctime>

#include "cli/commands.h"
#include "cli/format.h"
#include "cli/json.h"
#include "cli/names.h"

namespace hearth::cli {
namespace {

std::string LineOf(const hearth::v1::LogEntry& entry) {
  const time_t seconds = entry.time().seconds();
  tm parts{};
  localtime_r(&seconds, &parts);
  char time[32];
  std::strftime(time, sizeof time, "%H:%M:%S", &parts);
  char fraction[8];
  std::snprintf(fraction, sizeof fraction, ".%03d", entry.time().nanos() / 1'000'000 % 1000);
  // The end of a UUIDv7 is its random part: enough to tell two invocations apart.
  const std::string id = LastSegment(entry.invocation());
  const std::string tag = id.empty() ? "init    " : id.substr(id.size() > 8 ? id.size() - 8 : 0);
  const char* source = entry.source() == hearth::v1::LogEntry::STDERR   ? "err"
                       : entry.source() == hearth::v1::LogEntry::STDOUT ? "out"
                                                                        : "---";
  std::string text;
  if (entry.dropped() > 0) text += "(" + std::to_string(entry.dropped()) + " lines lost)\n";
  text += std::string(time) + fraction + " " + tag + " " + source + " " + SafeText(entry.text());
  if (entry.truncated()) text += " (cut)";
  return text + "\n";
}

}  // namespace

int Logs(Session& session, const LogsOptions& options) {
  const FunctionRef function = ParseFunctionOnly(options.name, session.options.tenant);
  Client& client = session.client();
  hearth::v1::TailLogsRequest request;
  request.set_parent(function.FunctionName());
  request.set_follow(options.follow);
  request.set_tail(options.tail);
  if (!options.invocation.empty()) {
    request.set_invocation(options.invocation.find('/') != std::string::npos
                               ? options.invocation
                               : function.FunctionName() + "/invocations/" + options.invocation);
  }
  grpc::ClientContext context;
  const Interrupt::Scope scope(client.interrupt(), [&] { context.TryCancel(); });
  auto reader = client.logs->TailLogs(&context, request);
  hearth::v1::TailLogsResponse response;
  while (reader->Read(&response)) {
    for (const auto& entry : response.entries()) {
      session.terminal.out << (session.options.json ? JsonText(ToJson(entry), -1) : LineOf(entry));
    }
    session.terminal.out.flush();
    // `hearth logs -f | head`: whoever read has gone.
    if (!session.terminal.out) context.TryCancel();
  }
  const grpc::Status status = reader->Finish();
  if (client.interrupt()->raised()) return options.follow ? kExitOk : kExitInterrupted;
  if (!session.terminal.out) return kExitOk;  // RunApp judges why.
  if (!status.ok()) throw CliError(FromStatus(status, "read the log of " + function.function));
  return kExitOk;
}

}  // namespace hearth::cli
