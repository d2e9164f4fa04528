// SPDX-License-Identifier: Apache-2.0
// Connections and writing; parsing is in http_parse.cc.
#include "agent/http_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "vmm/base/status.h"

namespace hearth::agent {
namespace {

constexpr size_t kRequestReadBytes = 64 * 1024;
// So much of a payload lies in the kernel at most: the same few pages for all of it, where each new
// page is one that a restored instance has to be given.
constexpr int kSendBufferBytes = 64 * 1024;

const char* ReasonPhrase(int status) { return http_status_str(static_cast<http_status>(status)); }

}  // namespace

const std::string& HttpRequest::Header(const std::string& name) const {
  static const std::string kNone;
  auto it = headers.find(name);
  return it == headers.end() ? kNone : it->second;
}

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Create(EventLoop* loop, uint16_t port,
                                                               HttpHandler* handler) {
  UniqueFd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener) return ErrnoStatus("socket");
  const int on = 1;
  setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  socklen_t length = sizeof(address);
  if (bind(listener.get(), reinterpret_cast<sockaddr*>(&address), length) != 0 ||
      listen(listener.get(), 16) != 0 ||
      getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    return ErrnoStatus(absl::StrCat("listen on 127.0.0.1:", port));
  }
  http_parser_set_max_header_size(kMaxHttpHeaderBytes);
  std::unique_ptr<HttpServer> server(new HttpServer(loop, handler, std::move(listener)));
  HttpServer* const raw = server.get();
  raw->port_ = ntohs(address.sin_port);
  RETURN_IF_ERROR(loop->Add(raw->listener_.get(), EPOLLIN, [raw](uint32_t) { raw->Accept(); }));
  raw->accepting_ = true;
  return server;
}

HttpServer::~HttpServer() {
  if (accepting_) loop_->Remove(listener_.get());
  for (auto& [fd, connection] : connections_) loop_->Remove(fd);
}

void HttpServer::CloseAll() {
  while (!connections_.empty()) {
    HttpConnection* const connection = connections_.begin()->second.get();
    connection->dead_ = true;
    Close(connection);
  }
}

void HttpServer::Accept() {
  UniqueFd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!socket) return;
  const int on = 1;
  setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  setsockopt(socket.get(), SOL_SOCKET, SO_SNDBUF, &kSendBufferBytes, sizeof(kSendBufferBytes));
  auto connection = std::make_unique<HttpConnection>();
  const int fd = socket.get();
  connection->socket_ = std::move(socket);
  connection->server_ = this;
  http_parser_init(&connection->parser_, HTTP_REQUEST);
  connection->parser_.data = connection.get();
  HttpConnection* const raw = connection.get();
  const absl::Status status =
      loop_->Add(fd, EPOLLIN, [this, raw](uint32_t events) { OnEvents(raw, events); });
  if (!status.ok()) return;
  connections_[fd] = std::move(connection);
  if (connections_.size() < kMaxHttpConnections) return;
  // The rest waits in the kernel's backlog until a connection closes.
  accepting_ = false;
  loop_->Remove(listener_.get());
}

void HttpServer::OnEvents(HttpConnection* connection, uint32_t events) {
  switch (connection->phase_) {
    case HttpConnection::Phase::kWriting:
      Write(connection);
      break;
    case HttpConnection::Phase::kWaiting:
      // Nothing but the client's end is watched for.
      if ((events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP)) != 0) connection->dead_ = true;
      break;
    case HttpConnection::Phase::kHeaders:
    case HttpConnection::Phase::kBody:
      Read(connection);
      break;
  }
  if (connection->dead_) return Close(connection);
  UpdateWatch(connection);
}

void HttpServer::Read(HttpConnection* connection) {
  std::array<char, kRequestReadBytes> buffer;
  const ssize_t got = read(connection->socket_.get(), buffer.data(), buffer.size());
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got > 0) return Parse(connection, {buffer.data(), static_cast<size_t>(got)});
  connection->keep_alive_ = false;
  if (got < 0 || connection->phase_ == HttpConnection::Phase::kHeaders) {
    connection->dead_ = true;
    return;
  }
  // Cut short in its body.
  connection->message_ended_ = true;
  if (!connection->responded_) handler_->OnTruncated(connection);
  if (!connection->responded_) {
    connection->dead_ = true;
    return;
  }
  StartWriting(connection);
}

void HttpConnection::Respond(int status, const HttpHeaders& headers,
                             std::shared_ptr<const std::string> body) {
  if (responded_ || dead_) return;
  responded_ = true;
  body_ = body != nullptr ? std::move(body) : std::make_shared<const std::string>();
  head_ = absl::StrCat("HTTP/1.1 ", status, " ", ReasonPhrase(status), "\r\n");
  for (const auto& [name, value] : headers) absl::StrAppend(&head_, name, ": ", value, "\r\n");
  // RFC 9110, 8.6: a 204 has none.
  if (status != 204) absl::StrAppend(&head_, "Content-Length: ", body_->size(), "\r\n");
  absl::StrAppend(&head_, keep_alive_ ? "" : "Connection: close\r\n", "\r\n");
  written_ = 0;
  reading_ = true;
  if (message_ended_ && phase_ == Phase::kWaiting) {
    server_->StartWriting(this);
  } else {
    server_->UpdateWatch(this);
  }
}

void HttpConnection::SetReading(bool reading) {
  reading_ = reading;
  if (phase_ == Phase::kBody) server_->UpdateWatch(this);
}

void HttpServer::MessageEnded(HttpConnection* connection) {
  connection->message_ended_ = true;
  connection->phase_ = HttpConnection::Phase::kWaiting;
  if (!connection->responded_) {
    handler_->OnMessageEnd(connection);
  } else {
    StartWriting(connection);
  }
}

// Written by the loop and not here, so that no connection dies inside a handler's call.
void HttpServer::StartWriting(HttpConnection* connection) {
  connection->phase_ = HttpConnection::Phase::kWriting;
  UpdateWatch(connection);
}

void HttpServer::Write(HttpConnection* connection) {
  const size_t total = connection->head_.size() + connection->body_->size();
  while (connection->written_ < total) {
    const bool in_head = connection->written_ < connection->head_.size();
    const absl::string_view part =
        in_head ? absl::string_view(connection->head_).substr(connection->written_)
                : absl::string_view(*connection->body_)
                      .substr(connection->written_ - connection->head_.size());
    const ssize_t count =
        send(connection->socket_.get(), part.data(), part.size(),
             MSG_NOSIGNAL | (in_head && !connection->body_->empty() ? MSG_MORE : 0));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return;
    if (count < 0) {
      connection->dead_ = true;
      return;
    }
    connection->written_ += static_cast<size_t>(count);
  }
  if (!connection->keep_alive_) {
    connection->dead_ = true;
    return;
  }
  NextRequest(connection);
}

void HttpServer::NextRequest(HttpConnection* connection) {
  connection->phase_ = HttpConnection::Phase::kHeaders;
  connection->request_ = HttpRequest();
  connection->field_.clear();
  connection->value_.clear();
  connection->in_value_ = false;
  connection->field_bytes_ = 0;
  connection->header_count_ = 0;
  connection->head_.clear();
  connection->body_.reset();
  connection->responded_ = false;
  connection->message_ended_ = false;
  connection->reading_ = true;
  http_parser_pause(&connection->parser_, 0);
  const std::string input = std::exchange(connection->input_, std::string());
  if (!input.empty()) Parse(connection, input);
}

void HttpServer::UpdateWatch(HttpConnection* connection) {
  if (connection->dead_) return;
  uint32_t events = 0;
  switch (connection->phase_) {
    case HttpConnection::Phase::kHeaders:
      events = EPOLLIN;
      break;
    case HttpConnection::Phase::kBody:
      // 100 Continue and early answers go through kBody too: the body is read all the same.
      if (connection->reading_) events = EPOLLIN;
      break;
    case HttpConnection::Phase::kWaiting:
      events = EPOLLRDHUP;
      break;
    case HttpConnection::Phase::kWriting:
      events = EPOLLOUT;
      break;
  }
  loop_->Modify(connection->socket_.get(), events);
}

void HttpServer::Close(HttpConnection* connection) {
  const int fd = connection->socket_.get();
  loop_->Remove(fd);
  handler_->OnClosed(connection);
  connections_.erase(fd);
  if (accepting_) return;
  const absl::Status status = loop_->Add(listener_.get(), EPOLLIN, [this](uint32_t) { Accept(); });
  accepting_ = status.ok();
}

}  // namespace hearth::agent
