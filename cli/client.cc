// SPDX-License-Identifier: Apache-2.0
#include "cli/client.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cerrno>
#include <chrono>
#include <cstring>

#include "vmm/base/unique_fd.h"

namespace hearth::cli {
namespace {

constexpr char kStart[] =
    "Start it: `scripts/quickstart` does on a fresh machine, `hearthd --help` shows how by hand.";
constexpr char kElsewhere[] =
    "Does it listen elsewhere? Name its socket with --socket or in HEARTH_SOCKET.";

std::shared_ptr<grpc::Channel> Connect(const std::string& socket) {
  Failure failure = ProbeSocket(socket);
  if (!failure.message.empty()) throw CliError(std::move(failure));
  grpc::ChannelArguments arguments;
  // Without it gRPC may send what is meant for a local socket to a proxy of the environment's.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // The default authority of a Unix target is its path in percent-encoding, which some servers
  // refuse.
  arguments.SetString(GRPC_ARG_DEFAULT_AUTHORITY, "localhost");
  auto channel =
      grpc::CreateCustomChannel("unix:" + socket, grpc::InsecureChannelCredentials(), arguments);
  // What fails from here on fails in the middle: a call that found nobody is told apart.
  if (!channel->WaitForConnected(std::chrono::system_clock::now() +
                                 std::chrono::seconds(kCallTimeoutSeconds))) {
    failure.exit_code = kExitUnreachable;
    failure.code = "UNAVAILABLE";
    failure.message = "whoever listens on " + socket + " does not answer";
    failure.advice = {"See that hearthd still runs (`hearth doctor`), then try again.", kElsewhere};
    throw CliError(std::move(failure));
  }
  return channel;
}

}  // namespace

Failure ProbeSocket(const std::string& socket) {
  Failure failure;
  failure.exit_code = kExitUnreachable;
  failure.code = "UNAVAILABLE";
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socket.empty() || socket.size() >= sizeof address.sun_path) {
    failure.exit_code = kExitUsage;
    failure.code = "USAGE";
    failure.message = "a socket's path is 1 to " + std::to_string(sizeof address.sun_path - 1) +
                      " bytes long, not " + std::to_string(socket.size());
    return failure;
  }
  std::memcpy(address.sun_path, socket.c_str(), socket.size());
  const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) return {};
  switch (errno) {
    case ENOENT:
      failure.message = "hearthd is not running: there is no socket " + socket;
      failure.advice = {kStart, kElsewhere};
      break;
    case ECONNREFUSED: {
      struct stat info {};
      if (stat(socket.c_str(), &info) == 0 && !S_ISSOCK(info.st_mode)) {
        failure.message = socket + " is no socket";
        failure.advice = {kElsewhere};
        break;
      }
      failure.message =
          "hearthd is not running: nobody listens on " + socket + ", which an earlier one left";
      failure.advice = {kStart};
      break;
    }
    case EACCES:
    case EPERM:
      failure.message = "you may not use " + socket;
      failure.advice = {"Ask for membership of the group that owns it (ls -l " + socket +
                        " shows it), or use sudo."};
      break;
    default:
      failure.message = "cannot connect to " + socket + ": " + std::strerror(errno);
      failure.advice = {kElsewhere};
  }
  return failure;
}

Client::Client(const std::string& socket, Interrupt* interrupt)
    : Client(Connect(socket), interrupt) {}

Client::Client(std::shared_ptr<grpc::Channel> channel, Interrupt* interrupt)
    : tenants(hearth::v1::TenantService::NewStub(channel)),
      functions(hearth::v1::FunctionService::NewStub(channel)),
      artifacts(hearth::v1::ArtifactService::NewStub(channel)),
      invocations(hearth::v1::InvocationService::NewStub(channel)),
      logs(hearth::v1::LogService::NewStub(channel)),
      usage(hearth::v1::UsageService::NewStub(channel)),
      instances(hearth::v1::InstanceService::NewStub(channel)),
      runtimes(hearth::v1::RuntimeService::NewStub(channel)),
      snapshots(hearth::v1::SnapshotService::NewStub(channel)),
      images(hearth::v1::ImageService::NewStub(channel)),
      operations(google::longrunning::Operations::NewStub(channel)),
      interrupt_(interrupt) {}

grpc::Status Client::TryCall(const Method& method) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::seconds(kCallTimeoutSeconds));
  const Interrupt::Scope scope(interrupt_, [&] { context.TryCancel(); });
  return method(&context);
}

void Client::Call(const std::string& what, const Method& method) {
  const grpc::Status status = TryCall(method);
  if (!status.ok()) throw CliError(FromStatus(status, what));
}

}  // namespace hearth::cli
