package example.orders;

import java.util.ArrayList;
import java.util.List;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.security.config.annotation.method.configuration.EnableMethodSecurity;
import org.springframework.security.config.annotation.web.builders.HttpSecurity;
import org.springframework.security.core.GrantedAuthority;
import org.springframework.security.core.authority.SimpleGrantedAuthority;
import org.springframework.security.oauth2.core.OAuth2AccessToken;
import org.springframework.security.oauth2.core.OAuth2TokenIntrospectionClaimNames;
import org.springframework.security.oauth2.server.resource.authentication.BearerTokenAuthentication;
import org.springframework.security.oauth2.server.resource.introspection.OpaqueTokenAuthenticationConverter;
import org.springframework.security.web.SecurityFilterChain;

@Configuration
@EnableMethodSecurity
public class SecurityConfiguration {
    @Bean
    SecurityFilterChain policy(HttpSecurity http, OpaqueTokenAuthenticationConverter authorities) throws Exception {
        return http.authorizeHttpRequests(calls -> calls
                        .requestMatchers("/api/public/**").permitAll()
                        .requestMatchers("/api/admin/**").hasRole("ADMIN")
                        .requestMatchers("/api/reports/**").hasAuthority("SCOPE_admin:read")
                        .anyRequest().authenticated())
                .oauth2ResourceServer(server -> server.opaqueToken(opaque -> opaque.authenticationConverter(authorities)))
                .csrf(csrf -> csrf.ignoringRequestMatchers("/api/**"))
                .build();
    }

    /** Scopes become authorities without help, as SCOPE_ and their name. Roles are answered beside them. */
    @Bean
    OpaqueTokenAuthenticationConverter authorities() {
        return (token, caller) -> {
            List<GrantedAuthority> authorities = new ArrayList<>(caller.getAuthorities());
            List<String> roles = caller.getAttribute("roles");
            if (roles != null) {
                roles.forEach(role -> authorities.add(new SimpleGrantedAuthority("ROLE_" + role)));
            }
            var shown = new OAuth2AccessToken(
                    OAuth2AccessToken.TokenType.BEARER,
                    token,
                    caller.getAttribute(OAuth2TokenIntrospectionClaimNames.IAT),
                    caller.getAttribute(OAuth2TokenIntrospectionClaimNames.EXP));
            return new BearerTokenAuthentication(caller, shown, authorities);
        };
    }
}
