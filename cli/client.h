// SPDX-License-Identifier: Apache-2.0
// The connection to hearthd.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>

#include "cli/failure.h"
#include "cli/interrupt.h"
#include "google/longrunning/operations.grpc.pb.h"
#include "hearth/v1/services.grpc.pb.h"

namespace hearth::cli {

inline constexpr char kDefaultSocket[] = "/run/hearth/hearthd.sock";
// For calls that only read or write metadata.
inline constexpr int kCallTimeoutSeconds = 30;

class Client {
 public:
  // Throws CliError, saying what to do, when no hearthd listens on the socket.
  Client(const std::string& socket, Interrupt* interrupt);

  // One unary call with kCallTimeoutSeconds; throws CliError when it fails. `what` as in
  // FromStatus.
  using Method = std::function<grpc::Status(grpc::ClientContext*)>;
  void Call(const std::string& what, const Method& method);
  // The same, but the status is the caller's to judge.
  grpc::Status TryCall(const Method& method);

  Interrupt* interrupt() const { return interrupt_; }

  const std::unique_ptr<hearth::v1::TenantService::Stub> tenants;
  const std::unique_ptr<hearth::v1::FunctionService::Stub> functions;
  const std::unique_ptr<hearth::v1::ArtifactService::Stub> artifacts;
  const std::unique_ptr<hearth::v1::InvocationService::Stub> invocations;
  const std::unique_ptr<hearth::v1::LogService::Stub> logs;
  const std::unique_ptr<hearth::v1::UsageService::Stub> usage;
  const std::unique_ptr<hearth::v1::InstanceService::Stub> instances;
  const std::unique_ptr<hearth::v1::RuntimeService::Stub> runtimes;
  const std::unique_ptr<hearth::v1::SnapshotService::Stub> snapshots;
  const std::unique_ptr<hearth::v1::ImageService::Stub> images;
  const std::unique_ptr<google::longrunning::Operations::Stub> operations;

 private:
  Client(std::shared_ptr<grpc::Channel> channel, Interrupt* interrupt);

  Interrupt* const interrupt_;
};

// Why nobody can be reached at `socket`, or an empty Failure::message when somebody listens.
Failure ProbeSocket(const std::string& socket);

}  // namespace hearth::cli
