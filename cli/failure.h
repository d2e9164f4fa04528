// SPDX-License-Identifier: Apache-2.0
// What `hearth` says, and how it ends, when something did not work.
#pragma once

#include <grpcpp/support/status.h>

#include <exception>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "google/rpc/status.pb.h"

namespace hearth::cli {

// The exit codes of `hearth`, the same for every command; docs/cli.md and --help list them.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;       // Refused, or it failed; nothing of the user's ran.
inline constexpr int kExitUsage = 2;        // The command line, or hearth.json, is wrong.
inline constexpr int kExitUnreachable = 3;  // hearthd cannot be reached.
inline constexpr int kExitRetry = 4;        // Not now: the same command may work later.
inline constexpr int kExitFunctionError = 10;
inline constexpr int kExitTimedOut = 11;
inline constexpr int kExitOutOfMemory = 12;
inline constexpr int kExitInstanceLost = 13;
inline constexpr int kExitResultLost = 14;
inline constexpr int kExitInterrupted = 130;

// One failure in the user's words. Text and JSON are made from the same value.
struct Failure {
  int exit_code = kExitFailed;
  std::string code;                             // "INVALID_ARGUMENT", or "USAGE" for our own.
  std::string message;                          // What did not work, and why.
  std::vector<std::string> facts;               // Where: a field, a line, a limit.
  std::vector<std::string> advice;              // What to do; each one sentence or command.
  std::string reason;                           // google.rpc.ErrorInfo's.
  std::map<std::string, std::string> metadata;  // google.rpc.ErrorInfo's.
  long retry_after_ms = -1;                     // google.rpc.RetryInfo's; -1: none.
};

// Thrown by commands, rendered by main: the CLI's only exception type.
class CliError : public std::exception {
 public:
  explicit CliError(Failure failure) : failure_(std::move(failure)) {}
  const Failure& failure() const { return failure_; }
  const char* what() const noexcept override { return failure_.message.c_str(); }

 private:
  Failure failure_;
};

// A mistake on the command line or in a file of the user's.
CliError UsageError(std::string message, std::vector<std::string> advice = {},
                    std::vector<std::string> facts = {});
// Something on this machine that failed (a file, a pipe).
CliError LocalError(std::string message, std::vector<std::string> advice = {});

// The failure that a call ended with; `what` names what was tried ("deploy thumbnail"). Reads the
// standard google.rpc details, and ignores those it does not know.
Failure FromStatus(const grpc::Status& status, const std::string& what);
Failure FromRpcStatus(const google::rpc::Status& status, const std::string& what);

// As lines for people, each ended; `colour` adds terminal colours.
std::string RenderText(const Failure& failure, bool colour);
// {"error": {...}} for machines.
nlohmann::json RenderJson(const Failure& failure);

}  // namespace hearth::cli
